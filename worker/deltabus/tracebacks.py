"""A traceback for the log: where it went wrong and what kind of error it was, in whose words only where they are safe.

An error may quote what it was raised for: `invalid literal for int(): 'a prompt'`, a `KeyError` with a piece of an
answer, a provider's refusal that repeats the question. So the words are shown of those errors alone that only ever
hold the system's, Redis' or a programmer's; of all others at the level `debug`, which may show prompts and answers.
"""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Final

from redis.exceptions import RedisError

from deltabus.errors import BusUnavailable, ConfigError

#: Errors whose words hold nothing of a task.
SAFE: Final = (OSError, RedisError, ImportError, AttributeError, NameError, TypeError, ConfigError, BusUnavailable)

#: What stands in place of the words of others.
HIDDEN: Final = "(log_level = debug shows the words)"

#: Frames of one traceback, the innermost; a recursion has a thousand.
FRAMES: Final = 50

#: Errors in a chain, or in a group.
ERRORS: Final = 10

ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


def render(info: ExcInfo, *, words: bool) -> str:
    """The traceback, of causes first, as Python prints it.

    Args:
        words: whether the words of all errors are shown.
    """
    lines: list[str] = []
    _render(info[1], lines, words, set())
    return "".join(lines).rstrip("\n")


def _render(error: BaseException | None, lines: list[str], words: bool, seen: set[int]) -> None:
    if error is None or id(error) in seen or len(seen) >= ERRORS:
        return
    seen.add(id(error))
    if error.__cause__ is not None:
        _render(error.__cause__, lines, words, seen)
        lines.append("\nThe above exception was the direct cause of the following exception:\n\n")
    elif error.__context__ is not None and not error.__suppress_context__:
        _render(error.__context__, lines, words, seen)
        lines.append("\nDuring handling of the above exception, another exception occurred:\n\n")
    lines.append("Traceback (most recent call last):\n")
    lines += traceback.format_tb(error.__traceback__, limit=-FRAMES)
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    said = str(error) if words or isinstance(error, SAFE) else HIDDEN
    lines.append(f"{name}: {said}\n" if said else f"{name}\n")
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            _render(each, lines, words, seen)
