"""What `deltabus check --production` judges: settings, the file they stand in, the process, the Redis server."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltabus import openfiles
from deltabus.cli.queues import as_text
from deltabus.settings import Settings, configfile
from deltabus.settings.secretsource import is_elsewhere

if TYPE_CHECKING:
    from redis import Redis


@dataclass(frozen=True, slots=True)
class Server:
    """A Redis server, as it describes itself."""

    #: INFO.
    info: Mapping[str, Any]
    #: CONFIG GET; empty where that is not allowed.
    config: Mapping[str, str] = field(default_factory=dict)
    #: ACL WHOAMI; empty: a user who may not ask.
    user: str = "default"
    #: Queues in RQ's list that the settings do not name.
    other_queues: Sequence[str] = ()
    #: Queues whose first job is no JSON.
    pickled_queues: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything that is judged."""

    settings: Settings
    #: None: it cannot be reached.
    server: Server | None = None
    #: deltabus.toml, where there is one, and what it says before anything in it is looked up.
    file: Path | None = None
    table: Mapping[str, Any] = field(default_factory=dict)
    #: Permission bits of that file and of the files that hold its secrets.
    modes: Mapping[Path, int] = field(default_factory=dict)
    #: Effective user id of this process.
    user: int = 1000
    #: Hard limit of open files of this process: workers raise the soft one as they need.
    open_files: int = 65536
    #: Seconds from SIGTERM to SIGKILL, as the operator says; None: unknown.
    grace: float | None = None
    #: Host of a collector of traces to which credentials go over http; empty: there is none.
    plain_collector: str = ""


def survey(settings: Settings, redis: Redis | None, grace: float | None) -> Surroundings:
    """Look around, from the place where a worker would start.

    Args:
        redis: a client of the server; None: it cannot be reached.
        grace: seconds from SIGTERM to SIGKILL, where the operator says so.
    """
    file = settings.file
    table = configfile.read(file) if file else {}
    paths = [*([file] if file else []), *_secret_files(table, file.parent if file else Path())]
    return Surroundings(
        settings=settings,
        server=None if redis is None else _server(redis, settings),
        file=file,
        table=table,
        modes={path: stat.S_IMODE(path.stat().st_mode) for path in paths if path.exists()},
        user=os.geteuid(),
        open_files=openfiles.most(),
        grace=grace,
        plain_collector="" if settings.traces == "off" else _plain_collector(),
    )


def _plain_collector() -> str:
    from deltabus.tracing import source

    try:
        return source.sent_plainly()
    except ValueError:  # a URL that is none, which is another finding
        return ""


def _secret_files(value: Any, folder: Path) -> Iterator[Path]:
    if is_elsewhere(value):
        name = value.get("file")
        if isinstance(name, str) and "$" not in name:
            yield folder / Path(name).expanduser()
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _secret_files(item, folder)


def _server(redis: Redis, settings: Settings) -> Server:
    from redis.exceptions import NoPermissionError, ResponseError

    from deltabus.records import payload

    info: dict[str, Any] = redis.info()
    try:
        told: dict[Any, Any] = redis.config_get("*")
    except ResponseError:  # hosted ones, and users without the right
        told = {}
    try:
        user = as_text(redis.acl_whoami() or "default")
    except NoPermissionError:
        user = ""  # nobody refuses that to `default`
    except ResponseError:
        user = "default"
    config = {as_text(name): as_text(value) for name, value in told.items()}
    prefix = settings.rq_key_prefix
    listed = {as_text(name).removeprefix(f"{prefix}:queue:") for name in redis.smembers(f"{prefix}:queues")}
    pickled = []
    for queue in settings.queues:
        for job in redis.lrange(f"{prefix}:queue:{queue}", 0, 0):
            data = redis.hget(f"{prefix}:job:{as_text(job)}", "data")
            if data is not None and payload(data if isinstance(data, bytes) else data.encode()) is None:
                pickled.append(queue)
    return Server(info, config, user, sorted(listed - set(settings.queues)), pickled)
