"""What providers answer: streams and documents, cut anywhere, against the plugins' parsers."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from deltabus.chat.accumulator import Accumulator
from deltabus.errors import TaskError
from deltabus.http import Decoder, Inflater, body, disposition, errors, headers
from deltabus.http.dataurl import DataURL
from deltabus.http.multipart import Form
from deltabus.provider import Chunk, Completion, Content, UploadRequest
from deltabus_anthropic import wire as anthropic
from deltabus_gemini import wire as gemini
from deltabus_openai import fileobject, media
from deltabus_openai import wire as openai
from fuzz import corpus
from fuzz.mutation import Mutator
from fuzz.subject import Parser, refusal

#: Bytes that an answer may have here: small, so that the limit is met, too.
LIMIT: Final = 200_000

_DECODERS: Final[Mapping[str, Callable[[], Decoder]]] = {
    "openai": lambda: openai.AnswerDecoder(LIMIT, choices=2),
    "anthropic": lambda: anthropic.AnswerDecoder(LIMIT),
    "gemini": lambda: gemini.AnswerDecoder(LIMIT, 2),
}

#: What an answer is given by the clock or by chance, where the API gives none.
_INCIDENTAL: Final = re.compile(rb'"(id|created)":("[^"]*"|[0-9]+)')


class Answers(Parser):
    """Bodies of chat answers: whole, and cut as a network may cut them, with the same outcome."""

    kind = "answers"
    share = 22

    def make(self, index: int) -> tuple[str, bytes, Sequence[int]]:
        mutator = self.mutator(index)
        plugin = mutator.random.choice(list(_DECODERS))
        # One in ten comes from an endpoint that speaks another API.
        spoken = plugin if mutator.random.random() < 0.9 else mutator.random.choice(list(_DECODERS))
        made = self._body(mutator, mutator.random.choice(corpus.answers(spoken)))
        cuts = sorted(mutator.random.randrange(len(made) + 1) for _ in range(mutator.random.randrange(8)))
        return plugin, made, cuts

    def attempt(self, given: tuple[str, bytes, Sequence[int]]) -> str:
        plugin, content, cuts = given
        whole = _decoded(_DECODERS[plugin](), [content])
        pieces = [content[start:end] for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        cut = _decoded(_DECODERS[plugin](), [piece for piece in pieces if piece])
        if whole != cut and "payload_too_large" not in {whole[0], cut[0]}:
            raise AssertionError(
                f"cut at {cuts}, it ends {cut[0]} after {len(cut[1])}, not {whole[0]} after {len(whole[1])}"
            )
        return f"{plugin}: {whole[0]}"

    def _body(self, mutator: Mutator, good: bytes) -> bytes:
        chance = mutator.random.random()
        if chance < 0.05:
            return mutator.noise()
        if chance < 0.4:
            return mutator.data(good)
        lines = [good] if good[:1] in b"{[" else good.splitlines(keepends=True)
        places = [place for place, line in enumerate(lines) if _document(line) is not None]
        for place in mutator.random.sample(places, min(len(places), mutator.random.randint(1, 2))):
            prefix, document = lines[place][: lines[place].find(b"{")], _document(lines[place])
            lines[place] = prefix + mutator.encode(mutator.document(document)) + b"\n"
        if chance < 0.5:
            mutator.random.shuffle(lines)
        if chance > 0.9:
            lines = [line.replace(b"\n", b"\r\n") for line in lines]
        return b"".join(lines)


class Documents(Parser):
    """Other answers: files, lists, models, vectors, errors with their headers, compressed bodies; and forms sent."""

    kind = "documents"
    share = 12

    def make(self, index: int) -> tuple[str, Any]:
        mutator = self.mutator(index)
        what = mutator.random.choice([*corpus.DOCUMENTS, "error", "headers", "compressed", "form", "dataurl"])
        if what in corpus.DOCUMENTS:
            encoded = mutator.encode(mutator.document(mutator.random.choice(corpus.DOCUMENTS[what])))
            encoded = mutator.data(encoded) if mutator.random.random() < 0.2 else encoded
            return what, encoded if what != "error" else (
                mutator.random.choice((200, 302, 400, 404, 429, 503, 999)),
                encoded,
            )
        if what == "headers":
            made = {name: value for name, value in corpus.HEADERS.items() if mutator.random.random() < 0.7}
            name = mutator.random.choice(list(corpus.HEADERS))
            return what, {**made, name: mutator.text(), mutator.random.choice(list(corpus.HEADERS)): mutator.text()}
        if what == "compressed":
            packed = mutator.random.choice((gzip.compress, zlib.compress))(
                mutator.noise(3000) * mutator.random.choice((1, 1, 300))
            )
            return what, (mutator.random.choice(("gzip", "deflate", mutator.text())), mutator.data(packed))
        if what == "form":
            return what, (
                mutator.document({"purpose": "batch", "expires_after": {"a": 1}, "list": ["x", None]}),
                mutator.text(),
                mutator.text(),
            )
        return what, mutator.random.choice(
            ("data:", "data:image/png;base64,", "DATA:a;b;c,", "")
        ) + mutator.text().encode(errors="replace").decode()

    def attempt(self, given: tuple[str, Any]) -> str:
        what, content = given
        try:
            getattr(self, f"_{what}")(content)
        except TaskError as exc:
            return f"{what}: {refusal(exc)}"
        return f"{what}: ok"

    def _file(self, content: bytes) -> None:
        answer = body.decode(content)
        msgspec.json.encode(fileobject.of(answer, id="f"))
        msgspec.json.encode(fileobject.uploaded(answer, UploadRequest(content=_Nothing(), body={"purpose": "batch"})))

    def _list(self, content: bytes) -> None:
        answer = body.decode(content)
        msgspec.json.encode(
            fileobject.page(answer, {"purpose": "batch", "limit": 1, "order": "desc", "after": "file-1"})
        )

    def _deletion(self, content: bytes) -> None:
        msgspec.json.encode(fileobject.deletion(body.decode(content), "file-1"))

    def _models(self, content: bytes) -> None:
        answer = body.decode(content)
        for read in (openai.models, anthropic.models, gemini.models, media._models):  # noqa: SLF001 # its only reader
            msgspec.json.encode(read(answer))

    def _embeddings(self, content: bytes) -> None:
        answer = body.decode(content)
        msgspec.json.encode(gemini.embeddings({"input": ["a", "b"]}, answer))
        msgspec.json.encode(media._ordered(answer, 2))  # noqa: SLF001 # its only reader

    def _pictures(self, content: bytes) -> None:
        msgspec.json.encode(media._pictures(body.decode(content)))  # noqa: SLF001 # its only reader

    def _transcription(self, content: bytes) -> None:
        msgspec.json.encode(media._transcription(body.decode(content)))  # noqa: SLF001 # its only reader

    def _error(self, given: tuple[int, bytes]) -> None:
        status, content = given
        body.decode(content)
        raise errors.from_answer(status, corpus.HEADERS, content)

    def _headers(self, given: Mapping[str, str]) -> None:
        disposition.filename(given.get("content-disposition", ""))
        errors.request_id(given)
        for name, value in given.items():
            headers.problem(value, name)
        error = errors.from_answer(429, given, b"{}")
        assert error.retry_after is None or 0 <= error.retry_after < float("inf"), error.retry_after
        raise errors.from_answer(302, given, b"")

    def _compressed(self, given: tuple[str, bytes]) -> None:
        encoding, content = given
        inflater = Inflater(encoding)
        for start in range(0, len(content), 500):
            inflater.push(content[start : start + 500])
            while piece := inflater.pull():
                assert len(piece) <= 65_536, "a step made more than its bound"

    def _form(self, given: tuple[Any, str, str]) -> None:
        fields, name, media_type = given
        Form(
            fields if isinstance(fields, dict) else {"x": fields},
            name,
            _Nothing(),
            filename=name,
            media_type=media_type,
        )

    def _dataurl(self, url: str) -> None:
        if (found := DataURL.parse(url, param="request")) is not None:
            found.decode(param="request")


class _Nothing(Content):
    """A file of no bytes."""

    name, media_type, size = "a.txt", "text/plain", 0

    async def read(self, start: int = 0, length: int | None = None) -> Any:
        if length:
            yield b""


def _decoded(decoder: Decoder, pieces: Sequence[bytes]) -> tuple[str, list[Any]]:
    """What comes of a body: how it ended, and what came before."""
    items: list[Chunk | Completion] = []
    outcome = "ok"
    try:
        for piece in pieces:
            items.extend(decoder.feed(piece))
            if decoder.done:
                break
        items.extend(decoder.finish())
    except TaskError as exc:
        outcome = refusal(exc)
    answer = Accumulator()
    for item in items:
        if isinstance(item, Chunk):
            assert b"\n" not in item.raw, "a chunk of several lines"
            answer.add(msgspec.json.decode(item.raw))
        else:
            msgspec.json.encode(item.data)
    msgspec.json.encode(answer.completion())
    return outcome, [_lasting(item.data) for item in items]


def _lasting(document: Any) -> bytes:
    """A document without what differs from one decoding to the next."""
    return _INCIDENTAL.sub(b"", msgspec.json.encode(document))


def _document(line: bytes) -> Any:
    start = line.find(b"{")
    try:
        return json.loads(line[start:]) if start >= 0 else None
    except ValueError:
        return None
