"""A configured value that stands somewhere else: in a variable, in a file, or in what a command prints.

    api_key = {env = "ACME_KEY"}
    api_key = {file = "/run/secrets/acme"}             # relative: to the folder of deltabus.toml; ${NAME} is replaced
    api_key = {command = ["vault", "read", "-field=key", "secret/acme"]}    # no shell, no ${NAME}

It is read once, when a process starts; a process that starts later reads what is there then. No message has
the value in it, nor what a command printed, on standard output or on standard error.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from deltabus.errors import ConfigError
from deltabus.settings import configfile
from deltabus.settings.configvalue import kind

#: The ways; a table with exactly one key, which is one of these, says where a value stands.
WAYS: Final = ("env", "file", "command")

#: Tables of a provider that are tables whatever they hold: a header may be called `env`.
TABLES: Final = ("headers", "query")

#: Tables that are sent as they are.
_SENT: Final = ("params", "force_params")

#: Seconds that a command may take, or whoever writes into a pipe.
COMMAND_TIMEOUT: Final = 30.0

#: Largest secret, in bytes. Whoever names a log or a device by mistake hears of it at once.
LARGEST: Final = 64 * 1024


def is_elsewhere(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value of the file says where it stands rather than being it."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in WAYS


def said(value: Mapping[str, Any]) -> str:
    """Where a value stands, for a screen. Arguments of a command are left out: there may be a secret among them."""
    ((way, where),) = value.items()
    if way == "command":
        return f"what {where[0]} prints" if isinstance(where, list) and where else "what a command prints"
    return f"${{{where}}}" if way == "env" else f"file {where}"


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where the values of one configuration are looked up."""

    #: The environment.
    variables: Mapping[str, str]
    #: What relative paths start from.
    folder: Path = Path()
    #: Why commands are not run, as a sentence; empty: they are.
    forbidden: str = ""

    def expand(self, key: str, value: Any) -> tuple[Any, list[str], list[str]]:
        """A provider's option with everything in it that stands elsewhere, and with `${NAME}` replaced.

        Returns:
            the value, what was put into it (it may be secret), and a sentence for each thing that is wrong.
        """
        if key in _SENT or not isinstance(value, dict | list):
            return configfile.expand(value, self.variables)
        if is_elsewhere(value) and key not in TABLES:
            try:
                read = self.read(value)
            except ConfigError as exc:
                return value, [], [str(exc)]
            return read, [read], []
        used: list[str] = []
        problems: list[str] = []

        def inner(name: str, item: Any) -> Any:
            expanded, more_used, more_problems = self.expand(name, item)
            used.extend(more_used)
            problems.extend(more_problems)
            return expanded

        made: Any
        if isinstance(value, dict):
            made = {name: inner(f"{key}.{name}", item) for name, item in value.items()}
        else:
            made = [inner(f"{key}[]", item) for item in value]
        return made, used, problems

    def read(self, value: Mapping[str, Any]) -> str:
        """The value that stands where this table says.

        Raises:
            ConfigError: it does not; the message says what is missing, and never what is there.
        """
        ((way, where),) = value.items()
        match way, where:
            case "env", str():
                if where not in self.variables:
                    raise ConfigError(f"environment variable {where} is not set")
                return self._checked(self.variables[where], f"environment variable {where}")
            case "file", str():
                return self.file(where)
            case "command", [str(), *rest] if all(isinstance(word, str) for word in rest):
                return self._command(where)
        wanted = 'a list of words such as ["pass", "show", "acme"]' if way == "command" else "a string"
        raise ConfigError(f"`{way}` must be {wanted}, not {kind(where)}")

    def file(self, name: str) -> str:
        """The content of a file, without the line end that editors add.

        Raises:
            ConfigError: it cannot be read, is no text, is empty or too large, or a pipe into which nobody writes.
        """
        expanded, _, problems = configfile.expand(name, self.variables)
        if problems:
            raise ConfigError(problems[0])
        try:
            path = self.folder / Path(expanded).expanduser()
            if path.is_fifo():
                content = _drained(path)
            else:
                with path.open("rb") as file:
                    content = file.read(LARGEST + 1)
        except (RuntimeError, ValueError) as exc:  # the home of nobody, a NUL
            raise ConfigError(f"{expanded!r} is not the path of a file") from exc
        except PermissionError as exc:
            raise ConfigError(f"may not read {path}: give it to the user that runs this (chown, chmod 400)") from exc
        except OSError as exc:
            raise ConfigError(f"cannot read {path}: {exc.strerror or exc}") from exc
        return self._text(content, str(path))

    def _command(self, words: list[str]) -> str:
        what = f"the command {words[0]}"
        if self.forbidden:
            raise ConfigError(f"{what} is not run: {self.forbidden}")
        import subprocess  # takes longer than all else here, and most have no command

        try:
            done = subprocess.run(  # noqa: S603 - the operator's own words, and no shell
                words,
                env=dict(self.variables),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # it may quote the secret
                timeout=COMMAND_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            # Not `from`: that exception holds what was printed so far.
            raise ConfigError(f"{what} was not done after {COMMAND_TIMEOUT:g} s; it gets no input") from None
        except OSError as exc:
            raise ConfigError(f"{what} cannot be started: {exc.strerror or exc}") from exc
        if done.returncode != 0:
            ended = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
            raise ConfigError(f"{what} failed with {ended}; run it by hand to see why")
        return self._text(done.stdout, what)

    def _text(self, content: bytes, what: str) -> str:
        if len(content) > LARGEST:
            raise ConfigError(f"{what}: over {LARGEST // 1024} KiB, which no secret is")
        try:
            text = content.decode()
        except UnicodeDecodeError:
            # Not `from`: that exception holds the content.
            raise ConfigError(f"{what}: not UTF-8 text") from None
        return self._checked(text.rstrip("\r\n"), what)

    def _checked(self, text: str, what: str) -> str:
        if not text.strip():
            raise ConfigError(f"{what} is empty")
        if not configfile.is_text(text):
            raise ConfigError(f"{what}: not UTF-8 text")
        return text


def _drained(path: Path) -> bytes:
    """What somebody writes into a pipe that has a name, such as a shell's `<(…)`. To open one waits for the writer.

    Raises:
        ConfigError: it has not ended after `COMMAND_TIMEOUT` seconds.
    """
    content = b""
    end = time.monotonic() + COMMAND_TIMEOUT
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        waiting = select.poll()
        waiting.register(pipe, select.POLLIN)
        while len(content) <= LARGEST:
            if not waiting.poll(max(end - time.monotonic(), 0) * 1000):
                raise ConfigError(f"{path} is a pipe, and nobody wrote a secret into it within {COMMAND_TIMEOUT:g} s")
            piece = pipe.read(LARGEST + 1 - len(content))
            if not piece:
                break
            content += piece
    return content
