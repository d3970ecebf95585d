"""What a job may name: registered functions and callbacks, and webhook hosts that the settings allow.

A job is data from a stranger. RQ imports whatever dotted path a job holds; deltabus looks the path up
here and imports nothing that is not found. Packages add to the list by entry point::

    [project.entry-points."deltabus.tasks"]
    summarise = "acme.tasks:summarise"         # a job names it as "acme.tasks.summarise"

    [project.entry-points."deltabus.callbacks"]
    billing = "acme.hooks:on_success"          # Callback("acme.hooks.on_success")
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final
from urllib.parse import urlsplit

from deltabus.errors import ConfigError, UnknownTask

#: Entry-point groups, read once per process.
TASKS: Final = "deltabus.tasks"
CALLBACKS: Final = "deltabus.callbacks"


class AllowList:
    """The registered functions of this process, by the dotted path that a job holds.

    Args:
        webhook_hosts: host names that RQ's webhooks may call; `*.acme.example` allows subdomains.
        functions: names of the task functions' entry points, or their dotted paths, where not all of them are to run.
    """

    def __init__(self, webhook_hosts: tuple[str, ...] = (), functions: tuple[str, ...] = ()) -> None:
        self._functions = functions
        self._hosts = frozenset(host.lower() for host in webhook_hosts)
        #: Looked for twice with each job, and importlib takes 5 us to find again what it has imported.
        self._loaded: dict[str, Callable[..., Any]] = {}

    @cached_property
    def _tasks(self) -> Mapping[str, EntryPoint]:
        registered = _by_path(TASKS)
        if not self._functions:
            return registered
        wanted = frozenset(self._functions)
        return {path: entry for path, entry in registered.items() if wanted & {path, entry.name}}

    def check(self) -> None:
        """Whether all functions that are to run are there.

        Raises:
            ConfigError: names one that is not, and what may have been meant.
        """
        registered = {name for path, entry in _by_path(TASKS).items() for name in (path, entry.name)}
        for name in self._functions:
            if name not in registered:
                near = difflib.get_close_matches(name, registered, n=1)
                hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(sorted(registered))}"
                raise ConfigError(f"`functions` names `{name}`, which no installed package registers; {hint}")

    @cached_property
    def _callbacks(self) -> Mapping[str, EntryPoint]:
        return _by_path(CALLBACKS)

    def task(self, path: str) -> Callable[..., Any]:
        """The task function registered under this dotted path.

        Raises:
            UnknownTask: it is not registered, or its package fails to import.
        """
        if path not in self._loaded:
            if path not in self._tasks and path in _by_path(TASKS):
                raise UnknownTask(
                    f"function `{path}` is not run by this worker; an operator can add it to `functions`",
                    param="function",
                )
            self._loaded[path] = _load(self._tasks, path, "function", TASKS)
        return self._loaded[path]

    def callback(self, path: str) -> Callable[..., Any]:
        """The RQ callback registered under this dotted path; raises as `task` does."""
        return _load(self._callbacks, path, "callback", CALLBACKS)

    def check_webhook(self, url: str) -> None:
        """Refuse a webhook that leads to a host nobody allowed.

        Raises:
            UnknownTask: names the host and the setting.
        """
        host = (urlsplit(url).hostname or "").lower()
        parents = (f"*.{host.split('.', i)[-1]}" for i in range(1, host.count(".") + 1))
        if host not in self._hosts and not self._hosts.intersection(parents):
            raise UnknownTask(
                f"webhook host `{host}` is not allowed; an operator can add it to `webhook_hosts`", param="webhooks"
            )


def _by_path(group: str) -> dict[str, EntryPoint]:
    return {entry.value.replace(":", "."): entry for entry in entry_points(group=group)}


def _load(entries: Mapping[str, EntryPoint], path: str, kind: str, group: str) -> Callable[..., Any]:
    entry = entries.get(path)
    if entry is None:
        near = difflib.get_close_matches(path, entries, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"packages register theirs under the entry point `{group}`"
        raise UnknownTask(f"{kind} `{path[:200]}` is not registered on this worker; {hint}", param=kind)
    try:
        loaded = entry.load()
    except Exception as exc:
        owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
        raise UnknownTask(
            f"{kind} `{path}` of {owner} cannot be imported: {type(exc).__name__}: {exc}", param=kind
        ) from exc
    if not callable(loaded):
        raise UnknownTask(f"{kind} `{path}` is registered but is not callable", param=kind)
    return loaded  # type: ignore[no-any-return]
