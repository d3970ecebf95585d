"""Embeddings, models, speech, transcription, images: options go along, answers are in order, errors are errors."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from deltabus.provider import (
    Authentication,
    Download,
    PayloadTooLarge,
    ProviderProtocol,
    RateLimited,
    Request,
    TaskError,
    Unsupported,
    UploadRequest,
)
from deltabus.testing import ApiServer, Dialect, Fault, Reply, Sample, ScriptedServer
from deltabus_openai import OpenAIProvider

Run = Callable[[Coroutine[Any, Any, Any]], Any]

KEY = "key-0123456789abcdef"
SPEECH = {"model": "tts-1", "input": "good morning, na\u00efve world", "voice": "alloy"}


def ask(
    run: Run, server: ApiServer | ScriptedServer, call: Callable[[OpenAIProvider], Coroutine[Any, Any, Any]]
) -> Any:
    async def main() -> Any:
        made = OpenAIProvider("kit", {"base_url": server.url, "api_key": KEY})
        try:
            return await call(made)
        finally:
            await made.aclose()

    return run(main())


async def everything(download: Download) -> bytes:
    try:
        return b"".join([piece async for piece in download])
    finally:
        await download.aclose()


# Embeddings


@pytest.mark.parametrize("given", ["one", ["one", "two", "three"], [1, 2, 3], [[1, 2], [3]]])
def test_vectors_come_in_the_order_of_their_texts(run: Run, given: Any) -> None:
    body = {"model": "e", "input": given, "dimensions": 4, "x_new": 1}
    with ApiServer() as straight, ApiServer(Dialect(shuffled=True)) as shuffled:
        answer, repaired = (
            ask(run, server, lambda made: made.embeddings(Request(body=body))) for server in (straight, shuffled)
        )
        assert answer == repaired
        assert [item["index"] for item in answer["data"]] == list(range(len(answer["data"])))
        assert len(answer["data"][0]["embedding"]) == 4
        assert straight.requests[0].body == body


def test_vectors_as_base64_stay_so(run: Run) -> None:
    with ApiServer() as server:
        body = {"model": "e", "input": "one"}
        plain = ask(run, server, lambda made: made.embeddings(Request(body=body)))["data"][0]["embedding"]
        coded = ask(run, server, lambda made: made.embeddings(Request(body={**body, "encoding_format": "base64"})))
        raw = base64.b64decode(coded["data"][0]["embedding"])
        assert struct.unpack(f"<{len(plain)}f", raw) == pytest.approx(plain)


@pytest.mark.parametrize(
    ("indexes", "order"),
    [([2, 0, 1], "bca"), ([0, 0, 0], "abc"), ([None, None, None], "abc"), ([0, 1, 1], "abc"), (["2", "1", "0"], "cba")],
)
def test_an_index_that_is_none_leaves_the_order_alone(run: Run, indexes: list[Any], order: str) -> None:
    data = [
        {"embedding": [0.0], "name": name, **({} if index is None else {"index": index})}
        for name, index in zip("abc", indexes, strict=True)
    ]
    with ScriptedServer(Reply.json({"object": "list", "data": data})) as server:
        answer = ask(run, server, lambda made: made.embeddings(Request(body={"input": ["a", "b", "c"]})))
    assert "".join(item["name"] for item in answer["data"]) == order
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]


@pytest.mark.parametrize("document", [{"data": []}, {"data": [{"embedding": [1]}] * 2}, {"data": [{}]}, [], {"ok": 1}])
def test_vectors_that_are_missing_or_too_many_are_an_error(run: Run, document: Any) -> None:
    with ScriptedServer(Reply.json(document)) as server, pytest.raises(ProviderProtocol) as caught:
        ask(run, server, lambda made: made.embeddings(Request(body={"input": "a"})))
    assert caught.value.provider == "kit"


# Models


@pytest.mark.parametrize(
    "document",
    [
        {"object": "list", "data": [{"id": "a", "object": "model"}, {"id": "b", "object": "model"}]},
        {"data": [{"id": "a"}, {"id": "b"}]},
        [{"id": "a"}, {"id": "b"}],
        {"models": [{"name": "a"}, {"name": "b"}]},
    ],
    ids=["openai", "bare data", "a list", "names"],
)
def test_models_are_a_list_whatever_the_shape(run: Run, document: Any) -> None:
    with ScriptedServer(Reply.json(document)) as server:
        answer = ask(run, server, lambda made: made.models(Request()))
    assert answer["object"] == "list"
    assert [(model["id"], model["object"]) for model in answer["data"]] == [("a", "model"), ("b", "model")]


# Speech and transcription


@pytest.mark.parametrize(
    ("kind", "media_type"), [("mp3", "audio/mpeg"), ("wav", "audio/wav"), ("opus", "audio/opus"), (None, "audio/mpeg")]
)
def test_speech_is_bytes_with_a_type_and_a_name(run: Run, kind: str | None, media_type: str) -> None:
    async def speak(made: OpenAIProvider) -> tuple[Download, bytes]:
        body = {**SPEECH, "speed": 1.5, "instructions": "softly", **({"response_format": kind} if kind else {})}
        download = await made.speech(Request(body=body))
        return download, await everything(download)

    with ApiServer() as server:
        download, sound = ask(run, server, speak)
        assert (download.media_type, download.name) == (media_type, f"speech.{kind or 'mp3'}")
        assert sound.endswith(SPEECH["input"].encode())
        assert server.requests[0].body["speed"] == 1.5
        assert server.requests[0].headers["accept"] == "*/*"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply.json({"error": {"message": "no", "code": "rate_limit_exceeded"}}), RateLimited),
        (
            Reply(
                headers={"Content-Type": "application/json"},
                body=[b'{"error": {"message": "no", ', b'"code": "invalid_api_key"}}'],
            ),
            Authentication,
        ),
        (
            Reply(headers={"Content-Type": "text/plain"}, body=[b'{"error": {"code": "invalid_api_key"}}']),
            Authentication,
        ),
        (Reply.json({"audio": "none"}), ProviderProtocol),
        (Reply(headers={"Content-Type": "text/html"}, body=[b"<html>"]), ProviderProtocol),
        (Reply(headers={"Content-Type": "audio/mpeg"}, body=[]), ProviderProtocol),
    ],
    ids=["an error", "an error in pieces", "an error as text", "other JSON", "a page", "nothing"],
)
def test_what_is_no_sound_is_an_error_with_a_200_too(run: Run, reply: Reply, kind: type[TaskError]) -> None:
    with ScriptedServer(reply) as server, pytest.raises(kind) as caught:
        ask(run, server, lambda made: made.speech(Request(body=SPEECH)))
    assert type(caught.value) is kind
    assert caught.value.provider == "kit"


@pytest.mark.parametrize("kind", [None, "json", "verbose_json", "text", "srt", "vtt"])
def test_a_transcription_is_an_object_in_every_format_and_its_options_go_along(run: Run, kind: str | None) -> None:
    body = {
        "model": "whisper-1",
        "language": "en",
        "temperature": 0.5,
        "prompt": "names",
        "timestamp_granularities": ["word", "segment"],
        **({"response_format": kind} if kind else {}),
    }
    request = UploadRequest(body=body, content=Sample(b"spoken:good morning", name="a.mp3", media_type="audio/mpeg"))
    with ApiServer() as server:
        answer = ask(run, server, lambda made: made.transcription(request))
        assert "good morning" in answer["text"]
        if kind in (None, "json", "text"):
            assert answer == {"text": "good morning"}
        if kind == "vtt":
            assert answer["text"].startswith("WEBVTT\n")
        if kind == "verbose_json":
            assert (answer["language"], len(answer["segments"])) == ("en", 1)
        assert server.requests[0].body == {**body, "temperature": "0.5"}
        assert server.left == []


def test_a_server_that_knows_one_format_is_understood_in_every_format(run: Run) -> None:
    request = UploadRequest(body={"model": "m", "response_format": "srt"}, content=Sample())
    with ScriptedServer(Reply.json({"text": "hello", "segments": []})) as server:
        answer = ask(run, server, lambda made: made.transcription(request))
    assert answer == {"text": "hello", "segments": []}


@pytest.mark.parametrize("document", [{"ok": 1}, [], 7])
def test_a_transcription_without_text_is_an_error(run: Run, document: Any) -> None:
    request = UploadRequest(body={"model": "m"}, content=Sample())
    with ScriptedServer(Reply.json(document)) as server, pytest.raises(ProviderProtocol):
        ask(run, server, lambda made: made.transcription(request))


# Images


@pytest.mark.parametrize("kind", ["b64_json", "url"])
def test_pictures_come_as_they_were_asked_for(run: Run, kind: str) -> None:
    body = {"prompt": "a dot", "n": 2, "response_format": kind, "size": "256x256", "quality": "hd"}
    with ApiServer() as server:
        answer = ask(run, server, lambda made: made.images(Request(body=body)))
        assert [list(picture) for picture in answer["data"]] == [[kind]] * 2
        assert isinstance(answer["created"], int)
        assert server.requests[0].body == body


def test_what_would_be_streamed_is_refused_unsent(run: Run) -> None:
    with ApiServer() as server:
        for call in (
            lambda made: made.images(Request(body={"prompt": "a", "stream": True})),
            lambda made: made.transcription(UploadRequest(body={"stream": True}, content=Sample())),
        ):
            with pytest.raises(Unsupported) as caught:
                ask(run, server, call)
            assert caught.value.param == "request.stream"
        assert server.operations() == []


CALLS: dict[str, Callable[[OpenAIProvider], Coroutine[Any, Any, Any]]] = {
    "embeddings": lambda made: made.embeddings(Request(body={"input": "a"})),
    "models": lambda made: made.models(Request()),
    "speech": lambda made: made.speech(Request(body=SPEECH)),
    "transcription": lambda made: made.transcription(UploadRequest(body={"model": "m"}, content=Sample())),
    "images": lambda made: made.images(Request(body={"prompt": "a"})),
}


@pytest.mark.parametrize("call", CALLS)
def test_errors_are_classified_whatever_was_called(run: Run, call: str) -> None:
    for fault, kind in (
        (Fault.rate_limit(4), RateLimited),
        (Fault.refuse(413), PayloadTooLarge),
        (Fault.refuse(401, {"error": {"message": f"{KEY} is wrong", "code": "invalid_api_key"}}), Authentication),
        (Fault.refuse(200, {"error": {"message": "no", "code": "invalid_api_key"}}), Authentication),
    ):
        with ApiServer() as server:
            server.fault(fault, on="*")
            with pytest.raises(kind) as caught:
                ask(run, server, CALLS[call])
            assert KEY not in f"{caught.value!r} {caught.value}"
            assert caught.value.provider == "kit"
