"""What others have written, as a terminal may get it: a name or an answer is not to move the cursor or set the title.

Control characters are shown as their pictures (U+2400…), what has none as U+FFFD.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

#: Control characters but for tab and line feed: C0, DEL, C1.
_CONTROLS: Final = (
    {number: 0x2400 + number for number in range(0x20) if chr(number) not in "\t\n"}
    | {0x7F: 0x2421}
    | dict.fromkeys(range(128, 160), 0xFFFD)
)

#: Unicode's categories of what is not to be in a line: controls, invisible ones, such as those that turn the direction
#: of writing, halves of characters, and ends of lines and paragraphs.
_NOT_IN_A_LINE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

#: What a line may hold of spaces, and JSON outside of its strings.
_INVISIBLE: Final = re.compile(r"[^\n -~]")


def text(value: str) -> str:
    """Lines of text, in any direction."""
    return value.translate(_CONTROLS)


def line(value: str) -> str:
    """A name, or whatever else is to stay within its line, and in its order."""
    if value.isprintable():
        return value
    return "".join(map(_in_line, value))


def json(value: str) -> str:
    """JSON: the same value, whose invisible characters are escaped."""
    return _INVISIBLE.sub(_escaped, value)


def _in_line(character: str) -> str:
    if unicodedata.category(character) not in _NOT_IN_A_LINE:
        return character
    number = ord(character)
    return chr(0x2400 + number if number < 0x20 else _CONTROLS.get(number, 0xFFFD))


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
