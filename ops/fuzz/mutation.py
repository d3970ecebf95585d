"""Inputs made worse: what a JSON document, a text or bytes become, all from one source of chance."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Final

#: Numbers at which parsers, timers and Redis stumble.
NUMBERS: Final[Sequence[Any]] = (
    0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"), 2**31, 2**31 - 1, -(2**31) - 1,
    2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, 86_400, 1e15, 1.5,
)  # fmt: skip

#: Texts at which those stumble that read, show, match or pass them on.
TEXTS: Final[Sequence[str]] = (
    "", " ", "\0", "\n", "\r\nX-Injected: 1", "\ud800", "a\udfff\ud800b", "\ufeff", "\u2028", "é", "🙂", "²", "٣",
    "a" * 300,
    "9" * 30, "9" * 5000, "-1", "1e999", "NaN", "null", "true", "[DONE]", "{", "}{", "[[[", "%s%n%x", "{0}{x!r}",
    "${HOME}",
    "$$", "${", "../../../../etc/passwd", "/etc/passwd", "C:\\con", "http://[", "http://a:b/", "data:", "data:,",
    "data:;base64,*",
    "data:image/png;base64,iVBORw0KGgo=", "deltabus:cancel", "rq:pubsub:w", "x:pubsub:y", "*", "-", "+", "$",
    "os.system",
    "deltabus.tasks.chat", "deltabus.tasks.file", "builtins.eval", "__class__", "__proto__",
    "2026-01-01T00:00:00.000000Z",
    "0001-01-01T00:00:00.000000Z", "9999-99-99T99:99:99.999999Z", "user", "system", "tool", "default", "echo",
    "\x1b[2J\x07",
    "text", "1-1", "9007199254740991-0", "18446744073709551615-18446744073709551615",
    "sk-0123456789abcdef0123456789abcdef",
)  # fmt: skip

#: Bytes that are put into the midst of others.
BYTES: Final[Sequence[bytes]] = (
    b"\x00", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80",
    b"\xe2\x80\xa8", b"\r", b"\n",
    b"\r\n", b"\n\n", b"data: ", b"data:", b": ping\n\n", b"event: error\n", b"error: ", b"[DONE]", b"id: 1\n", b'"',
    b"\\", b"\\u",
    b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"null", b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"\x78\x9c",
    b"\x80\x04",
    b"<html>", b"=", b"[[", b"]]", b'"""', b"''", b"#", b".", b" ", b"\t",
)  # fmt: skip

#: Stands in a document for a nest that is deeper than Python could write; `encode` puts it in.
_NEST: Final = "\ue000nest\ue000"

#: How deep nests are.
_DEPTHS: Final = (3, 30, 300, 900, 1100, 5_000, 100_000)

#: Bytes that a bomb unfolds to.
_BOMB: Final = 64 * 1024 * 1024

#: Nodes of a document among which one is chosen.
_MOST_NODES: Final = 400

Path = tuple[Any, ...]


class Mutator:
    """Makes inputs worse, by `random` alone."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self._changes: Sequence[Callable[[Any, Path], Any]] = (
            self._replaced, self._replaced, self._replaced, self._dropped, self._renamed, self._wrapped, self._grafted,
            self._repeated, self._nested, self._added, self._nudged, self._nudged,
        )  # fmt: skip

    def document(self, value: Any, most: int = 4) -> Any:
        """A document with one to `most` changes."""
        value = copy.deepcopy(value)
        for _ in range(self.random.randint(1, most)):
            paths = list(_paths(value))
            value = self.random.choice(self._changes)(value, self.random.choice(paths))
        return value

    def encode(self, value: Any) -> bytes:
        """A document as JSON, or what passes for it in Python: NaN, lone surrogates, doubled keys, endless nests."""
        ascii_only = self.random.random() < 0.7
        text = json.dumps(value, ensure_ascii=ascii_only, default=str)
        nest = json.dumps(_NEST, ensure_ascii=ascii_only)
        depths: Sequence[int] = _DEPTHS
        while nest in text:
            depth, depths = self.random.choice(depths), _DEPTHS[:2]  # one that is deep is enough
            opening, closing = self.random.choice((("[", "]"), ('{"a":', "}"), ("[", ""), ("[[],", "]")))
            text = text.replace(nest, opening * depth + ("1" if opening != "[" else "") + closing * depth, 1)
        if self.random.random() < 0.03:
            text = text.replace("{", f"{{{json.dumps(self.random.choice(TEXTS))}:1,", 1)
        if self.random.random() < 0.03 and isinstance(value, dict) and value:
            text = text.replace("{", f"{{{json.dumps(self.random.choice(list(value)))}:{self._scrap()},", 1)
        return text.encode(errors="surrogatepass")

    def data(self, data: bytes, most: int = 3) -> bytes:
        """Bytes with one to `most` changes: flipped, cut, put in, taken out, doubled."""
        out = bytearray(data)
        for _ in range(self.random.randint(1, most)):
            place = self.random.randrange(len(out) + 1)
            end = min(len(out), place + self.random.choice((1, 1, 2, 8, 64, 1024)))
            match self.random.randrange(6):
                case 0 if out:
                    out[place % len(out)] ^= 1 << self.random.randrange(8)
                case 1:
                    del out[place:]
                case 2:
                    out[place:place] = self.random.choice(BYTES) * self.random.choice((1, 1, 1, 2, 500))
                case 3:
                    del out[place:end]
                case 4:
                    out[place:place] = out[place:end] * self.random.choice((1, 2, 40))
                case _:
                    out[place:end] = self.random.randbytes(end - place)
        return bytes(out)

    def noise(self, most: int = 300) -> bytes:
        """Bytes by pure chance: any, or such as texts of these formats are made of."""
        size = self.random.randrange(most)
        if self.random.random() < 0.5:
            return self.random.randbytes(size)
        return bytes(self.random.choices(b"{}[]\",:\\.-+eE0123456789 \n\rdata:nulltrue=#'\xe9\xff\x00", k=size))

    def packed(self, data: bytes) -> bytes:
        """A payload as RQ compresses it; cut off, damaged, doubled, or a bomb."""
        packed = zlib.compress(data, 1)
        match self.random.randrange(8):
            case 0:
                return packed[: self.random.randrange(len(packed) + 1)]
            case 1:
                return self.data(packed, 2)
            case 2:
                return zlib.compress(packed)
            case 3:
                return packed + self.noise(40)
            case 4 if self.random.random() < 0.05:
                return bomb()
        return packed

    def scrap(self) -> Any:
        """A small value of any JSON type."""
        match self.random.randrange(8):
            case 0 | 1:
                return self.random.choice(NUMBERS)
            case 2 | 3 | 4:
                return self.random.choice(TEXTS)
            case 5:
                return self.random.choice((None, True, False))
            case 6:
                return self.random.choice(([], [[]], [None], [1, "a"], [{}], ["a"] * 50, [{"type": "text", "text": 7}]))
        return self.random.choice(({}, {"": None}, {"a": {}}, {"type": "x"}, {"text": 7}, {"\ud800": 1}))

    def text(self) -> str:
        """A text that nobody expects."""
        if self.random.random() < 0.8:
            return self.random.choice(TEXTS)
        return "".join(chr(self.random.randrange(1, 0x300)) for _ in range(self.random.randrange(40)))

    def _scrap(self) -> str:
        return json.dumps(self.scrap(), default=str)

    def _replaced(self, value: Any, path: Path) -> Any:
        return _with(value, path, lambda _: self.scrap())

    def _nudged(self, value: Any, path: Path) -> Any:
        return _with(value, path, self._near)

    def _near(self, value: Any) -> Any:
        """Something of the same type."""
        match value:
            case bool():
                return not value
            case int() | float():
                return self.random.choice((value + 1, -value, value * 1000, str(value), *NUMBERS))
            case str():
                place = self.random.randrange(len(value) + 1)
                word = self.random.choice(TEXTS)
                return self.random.choice(
                    (value[:place] + word + value[place:], value[:place], value * 3, value.upper())
                )
            case list():
                return self.random.sample(value, len(value))
            case dict():
                return dict(self.random.sample(list(value.items()), len(value)))
        return value

    def _dropped(self, value: Any, path: Path) -> Any:
        if not path:
            return value
        *above, last = path
        return _with(value, tuple(above), lambda node: _without(node, last))

    def _renamed(self, value: Any, path: Path) -> Any:
        def rename(node: Any) -> Any:
            if not isinstance(node, dict) or not node:
                return [node]
            key = self.random.choice(list(node))
            new = self.random.choice((key.upper(), key + "_", key[1:], self.text(), " " + key))
            return {(new if name == key else name): item for name, item in node.items()}

        return _with(value, path, rename)

    def _wrapped(self, value: Any, path: Path) -> Any:
        return _with(
            value, path, lambda node: self.random.choice(([node], {"value": node}, [node, node], str(node)[:500]))
        )

    def _grafted(self, value: Any, path: Path) -> Any:
        other = _get(value, self.random.choice(list(_paths(value))))
        return _with(value, path, lambda _: copy.deepcopy(other))

    def _repeated(self, value: Any, path: Path) -> Any:
        times = self.random.choice((2, 3, 20, 200))

        def repeat(node: Any) -> Any:
            match node:
                case list() | str():
                    return (node * times)[:20_000]
                case dict():
                    return {**node, **{f"{key}{n}": item for n in range(min(times, 20)) for key, item in node.items()}}
            return node

        return _with(value, path, repeat)

    def _nested(self, value: Any, path: Path) -> Any:
        return _with(value, path, lambda _: _NEST) if self.random.random() < 0.3 else self._replaced(value, path)

    def _added(self, value: Any, path: Path) -> Any:
        def add(node: Any) -> Any:
            match node:
                case dict():
                    return {**node, self.text(): self.scrap()}
                case list():
                    return [*node, self.scrap()]
            return node

        return _with(value, path, add)


def bomb() -> bytes:
    """A small stream that unfolds to 64 MiB."""
    packer = zlib.compressobj(9)
    piece = bytes(1 << 20)
    return b"".join([*(packer.compress(piece) for _ in range(_BOMB >> 20)), packer.flush()])


def _paths(value: Any) -> Iterator[Path]:
    """Where the nodes of a document are, the outer ones first, up to a number."""
    pending: list[tuple[Path, Any]] = [((), value)]
    for seen in range(_MOST_NODES):
        if seen >= len(pending):
            return
        path, node = pending[seen]
        yield path
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        pending += [((*path, key), item) for key, item in items]


def _get(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _with(value: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    """The document with that node changed, in place but for the root."""
    if not path:
        return change(value)
    *above, last = path
    parent = _get(value, tuple(above))
    parent[last] = change(parent[last])
    return value


def _without(node: Any, key: Any) -> Any:
    return (
        {name: item for name, item in node.items() if name != key}
        if isinstance(node, dict)
        else node[:key] + node[key + 1 :]
    )
