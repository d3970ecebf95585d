"""A settings module for RQ's own commands, so that they reach the Redis that deltabus is configured for.

    rq info --config deltabus.rqsettings
    RQ_CONFIG=deltabus.rqsettings rq suspend

RQ's `--url` takes no `redis+sentinel://`, and is for everybody on the machine to see; its settings modules know
Sentinel by a name of their own. Being imported, this one reads `deltabus.toml` and the environment, as RQ wants it.
"""

from __future__ import annotations

from typing import Any

from deltabus.settings import load
from deltabus.topology.clients import options
from deltabus.topology.redisurl import RedisURL
from deltabus.topology.sentinels import Sentinels

_settings = load()
_url = _settings.redis_url
_options: dict[str, Any] = options(_url, _settings.rq_key_prefix)
_guides = _options.pop("whereabouts", None)

if isinstance(_guides, Sentinels):
    _tls = {"ssl": True} if _guides.tls else {}
    SENTINEL = {
        "INSTANCES": list(_guides.nodes),
        "MASTER_NAME": _guides.service,
        "DB": _options.pop("db", 0),
        "USERNAME": _options.pop("username", None),
        "PASSWORD": _options.pop("password", None),
        "SSL": _guides.tls,
        "CONNECTION_KWARGS": _options,
        "SENTINEL_KWARGS": {**_guides.options, **_tls},
    }
elif _guides is not None:
    # RQ knows no Cluster. This is the node that owns its keys at present: right for a command, not for `rq worker`.
    REDIS_URL = RedisURL.parse(_url).of(_guides.find(None))
else:
    REDIS_URL = _url
