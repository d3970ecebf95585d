"""Kinds for the fuzz run, one for each way in which something can stumble. A module, as other processes import it."""

from __future__ import annotations

import os
import re

from deltabus.errors import InvalidRequest
from fuzz.subject import Parser


class _Stumbler(Parser):
    share = 100
    limit = 60.0

    def make(self, index):
        return self.mutator(index).noise(), index


class Sound(_Stumbler):
    """Refuses every other input."""

    kind = "sound"

    def attempt(self, given):
        if given[1] % 2:
            raise InvalidRequest("odd")
        return "ok"


class Raises(_Stumbler):
    """Lets a foreign error out at one input."""

    kind = "raises"

    def attempt(self, given):
        return "ok" if given[1] != 3 else {}["nothing"]


class Hangs(_Stumbler):
    """Never comes back from one input, in a loop that no other thread of the process can look into."""

    kind = "hangs"
    limit = 2.0

    def attempt(self, given):
        return "ok" if given[1] != 2 else str(re.match(r"(a|a)*$", "a" * 64 + "b"))


class Dies(_Stumbler):
    """Takes the interpreter down with one input."""

    kind = "dies"

    def attempt(self, given):
        if given[1] == 2:
            os.abort()
        return "ok"


class Grows(_Stumbler):
    """Keeps something of each input."""

    kind = "grows"
    kept: list[bytearray] = []  # noqa: RUF012 # that is the leak

    def attempt(self, given):
        self.kept.append(bytearray(b"x" * 20_000))
        return "ok"
