"""A settings module for RQ's own commands, so that they reach the Redis that deltabus is configured for.

    rq info --config deltabus.rqsettings
    RQ_CONFIG=deltabus.rqsettings rq suspend

RQ's `--url` takes no `redis+sentinel://`, and is for everybody on the machine to see; its settings modules know
Sentinel by a name of their own. Being imported, this one reads `deltabus.toml` and the environment, as RQ wants it.
"""

from __future__ import annotations

from typing import Any

from deltabus.discovery import Sentinels, options
from deltabus.settings import load

_url = load().redis_url
_options: dict[str, Any] = options(_url)

if isinstance(_sentinels := _options.pop("whereabouts", None), Sentinels):
    _tls = {"ssl": True} if _sentinels.tls else {}
    SENTINEL = {
        "INSTANCES": list(_sentinels.nodes),
        "MASTER_NAME": _sentinels.service,
        "DB": _options.pop("db", 0),
        "USERNAME": _options.pop("username", None),
        "PASSWORD": _options.pop("password", None),
        "SSL": _sentinels.tls,
        "CONNECTION_KWARGS": _options,
        "SENTINEL_KWARGS": {**_sentinels.options, **_tls},
    }
else:
    REDIS_URL = _url
