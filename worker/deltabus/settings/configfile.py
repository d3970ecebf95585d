"""The file `deltabus.toml`: where it is, what it says, and `${NAME}` in its values. Pure of settings."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deltabus.errors import ConfigError

#: Read from the working directory where nothing else is said.
DEFAULT_NAME: Final = "deltabus.toml"

#: Environment variable that names the file.
VARIABLE: Final = "DELTABUS_CONFIG"

#: Users besides this one whose file in the working directory is believed: root.
TRUSTED: Final = frozenset({0})

_PLACEHOLDER = re.compile(r"\$\$|\$\{([^{}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: `path`, else the one that $DELTABUS_CONFIG names, else ./deltabus.toml if there is one."""
    if path is not None:
        return path
    if named := environ.get(VARIABLE):
        return Path(named)
    default = Path(DEFAULT_NAME)
    # Whatever it is: one that cannot be read must not pass for none.
    return default if os.path.lexists(default) else None


def distrust(path: Path) -> str:
    """Why no command may be run because this file says so; empty: it may.

    A file that merely lies in the working directory is read by whoever happens to stand there: it could be anybody's.
    """
    found = path.stat()
    if found.st_uid not in TRUSTED | {os.geteuid()}:
        reason = "belongs to another user"
    elif found.st_mode & stat.S_IWOTH:
        reason = "may be written by everybody"
    else:
        return ""
    return (
        f"{path} was only found in the working directory, and {reason}; if it is yours, name it: --config, ${VARIABLE}"
    )


def read(path: Path) -> dict[str, Any]:
    """The file's content.

    Raises:
        ConfigError: it cannot be read, or is not TOML; the message names the line.
    """
    try:
        # Editors on Windows begin a file with a mark that nobody sees, and for which TOML has no place.
        return tomllib.loads(_content(path).decode("utf-8-sig"))
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not UTF-8 text: byte {exc.start} is not") from exc
    except tomllib.TOMLDecodeError as exc:
        raise _not_toml(path, exc) from exc
    except (ValueError, RecursionError) as exc:  # what tomllib lets out: a number of too many digits, endless nesting
        raise ConfigError(f"{path}: not TOML: {exc}") from exc


def _content(path: Path) -> bytes:
    # Opening a pipe waits for somebody who writes into it, and some devices never end.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) and path != Path(os.devnull):
            # Each process reads it anew, and a pipe can be read once.
            raise ConfigError(f"{path} is {_kind(mode)}, not a file: name a file that can be read more than once")
        return file.read()


def _kind(mode: int) -> str:
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"


def is_text(value: str) -> bool:
    """Whether a variable is UTF-8: Python takes what is not into its environment all the same (PEP 383)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def expand(value: Any, environ: Mapping[str, str]) -> tuple[Any, list[str], list[str]]:
    """Replace `${NAME}` in every string of a value from the environment; `$$` stands for one `$`.

    Returns:
        the value, the replacements that were made (they may be secrets), and what was wrong: a
        sentence for each name that is not set or not a name.
    """
    used: list[str] = []
    problems: list[str] = []

    def replacement(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "$"
        if not _VARIABLE_NAME.fullmatch(name):
            problems.append(f"`${{{name}}}` is not the name of an environment variable (write `$$` for a plain `$`)")
        elif name not in environ:
            problems.append(f"environment variable {name} is not set")
        elif not is_text(environ[name]):
            problems.append(f"environment variable {name} is not UTF-8 text")
        else:
            used.append(environ[name])
            return environ[name]
        return match.group()

    def walk(node: Any) -> Any:
        match node:
            case str():
                return _PLACEHOLDER.sub(replacement, node)
            case dict():
                return {key: walk(item) for key, item in node.items()}
            case list():
                return [walk(item) for item in node]
        return node

    return walk(value), used, problems


def _not_toml(path: Path, exc: tomllib.TOMLDecodeError) -> ConfigError:
    # tomllib ends its messages with the place: "… (at line 3, column 5)", or "… (at end of document)".
    text, _, place = str(exc).rpartition(" (at ")
    line = re.match(r"line (\d+), column (\d+)\)", place)
    if line is None:
        return ConfigError(f"{path}: not TOML: {exc}")
    return ConfigError(f"{path}:{line[1]}: not TOML: {text} (column {line[2]})")
