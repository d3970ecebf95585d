"""One field of a request: its JSON path, its value, and the rules that it can be held to.

A rule either returns the value, typed, or raises an error that names the path and the fix. Messages
never quote content: only words that look like names (of a role, a type, a function) are repeated,
and only where the API expects such a word.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterator
from typing import Any, Final

import msgspec

from deltabus.errors import InvalidRequest, Unsupported

#: What may be repeated in a message or a path: a word such as an identifier, not a sentence.
_WORD = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")

#: Similarity (0 to 1, `difflib`'s ratio) from which a word of an open set is taken for a misspelling.
_MISSPELT: Final = 0.85

#: Similarity from which a word is suggested in place of one that is refused.
_SIMILAR: Final = 0.6

#: Words that a message lists at most.
_LISTED: Final = 12

#: Levels of nesting kept free, so that what is accepted here can still be written inside something else.
_HEADROOM: Final = 100


class _Missing:
    """The value of a field that is not there."""


#: The value of a field that is not there; JSON's null is None.
MISSING: Final = _Missing()


class Field:
    """A value and where it stands, such as `request.messages[2].role`."""

    __slots__ = ("_key", "_of", "value")

    def __init__(self, key: str | int, value: object, of: Field | None = None) -> None:
        #: Name of a member or index of an item; without `of`, a whole path.
        self._key = key
        self._of = of
        self.value = value

    @property
    def path(self) -> str:
        """Put together where it is asked for: the fields of a good request, a dozen or more, need none."""
        if self._of is None:
            return str(self._key)
        if isinstance(self._key, int):
            return f"{self._of.path}[{self._key}]"
        return f"{self._of.path}.{self._key if _WORD.fullmatch(self._key) else '*'}"

    def error(self, rule: str) -> InvalidRequest:
        """An error that says what this field must be."""
        return InvalidRequest(f"`{self.path}` {rule}", param=self.path)

    def unsupported(self, reason: str) -> Unsupported:
        """An error that says what the provider cannot do, and what to do instead."""
        return Unsupported(f"`{self.path}`: {reason}", param=self.path)

    @property
    def unset(self) -> bool:
        """Whether the field is missing or null: to the API, both mean "not set"."""
        return self.value is None or self.value is MISSING

    def check_encodable(self) -> None:
        """Refuse what no provider could be sent: endless nesting, half a surrogate pair."""
        try:
            encoded = msgspec.json.encode(self.value)
            # What opens few brackets cannot be nested deeply: the usual request is encoded once, and not inside of
            # a hundred lists.
            if encoded.count(b"[") + encoded.count(b"{") > _HEADROOM:
                nested = self.value
                for _ in range(_HEADROOM):
                    nested = [nested]
                msgspec.json.encode(nested)
        except RecursionError as exc:
            raise InvalidRequest(f"`{self.path}` is nested too deeply to be sent as JSON", param=self.path) from exc
        except (msgspec.MsgspecError, OverflowError, TypeError, ValueError) as exc:
            raise InvalidRequest(
                f"`{self.path}` cannot be written as JSON: it must hold objects, arrays, strings of valid Unicode, "
                "numbers, booleans and null only",
                param=self.path,
            ) from exc

    def child(self, key: str) -> Field:
        """The member `key` of this object."""
        value = self.value.get(key, MISSING) if isinstance(self.value, dict) else MISSING
        return Field(key, value, self)

    def members(self) -> Iterator[tuple[str, Field]]:
        """Keys and members of this object."""
        for key in self.object():
            yield key, self.child(key)

    def items(self) -> Iterator[Field]:
        """The items of this array."""
        for index, value in enumerate(self.array()):
            yield Field(index, value, self)

    def object(self, what: str = "an object") -> dict[str, Any]:
        """The value, which must be an object."""
        if not isinstance(self.value, dict):
            raise self._not(what)
        return self.value

    def array(self, what: str = "an array") -> list[Any]:
        """The value, which must be an array."""
        if not isinstance(self.value, list):
            raise self._not(what)
        return self.value

    def string(self, what: str = "a string") -> str:
        """The value, which must be a string, perhaps empty."""
        if not isinstance(self.value, str):
            raise self._not(what)
        return self.value

    def boolean(self) -> bool:
        """The value, which must be true or false."""
        if not isinstance(self.value, bool):
            raise self._not("true or false")
        return self.value

    def integer(self) -> int:
        """The value, which must be a whole number; 1.0 and true are none."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self._not("an integer")
        return self.value

    def number(self) -> float:
        """The value, which must be a finite number."""
        value = self.value
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error("must be a finite number")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._not("a number")
        return value

    def one_of(self, allowed: Collection[str]) -> str:
        """The value, which must be a word of a closed set."""
        value = self.value
        if not isinstance(value, str):
            raise self._not(f"one of {_listed(allowed)}")
        if value not in allowed:
            raise self.error(f"must be one of {_listed(allowed)}{_instead(value, allowed)}")
        return value

    def word(self, known: Collection[str]) -> str:
        """The value, a word of an open set: a new one passes, a misspelling of a known one does not."""
        value = self.string()
        if value not in known and _near(value.lower(), known, _MISSPELT):
            raise self.error(f"must be one of {_listed(known)}, or a new type{_instead(value, known)}")
        return value

    def _not(self, what: str) -> InvalidRequest:
        if self.value is MISSING:
            return self.error(f"is required: {what}")
        return self.error(f"must be {what}, not {_kind(self.value)}")


def _listed(words: Collection[str]) -> str:
    shown = [word for word in words if _WORD.fullmatch(word)]
    return ", ".join(shown[:_LISTED]) + (", …" if len(shown) > _LISTED else "")


def _instead(value: str, words: Collection[str]) -> str:
    if not _WORD.fullmatch(value):
        return ""
    near = _near(value.lower(), words, _SIMILAR)
    return f", not `{value}`" + (f"; did you mean `{near[0]}`?" if near else "")


def _near(value: str, words: Collection[str], similarity: float) -> list[str]:
    # Comparing is quadratic, so what is far too long to be a misspelling is not compared.
    return difflib.get_close_matches(value, words, n=1, cutoff=similarity) if _WORD.fullmatch(value) else []


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
