"""The provider against a server that says what each situation needs."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

from deltabus.testing import Action, Case, ProviderContract, Reply, ScriptedServer, decode_every_way

from deltabus_ollama import Decoder, OllamaProvider

KEY = "key-0123456789"


def line(content, **rest):
    message = {"role": "assistant", "content": content}
    document = {"model": "llama3.2", "message": message, "done": False, **rest}
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def answer(request):
    if request.path == "/api/tags":
        return Reply.json({"models": [{"name": "llama3.2"}]})
    if request.json()["stream"]:
        return Reply(body=[line("Good"), line(" morning"), line("", done=True, done_reason="stop")])
    return Reply(body=[line("Good morning", done=True, done_reason="stop")])


REFUSALS = {"authentication": 401, "not_found": 404, "rate_limited": 429, "provider_unavailable": 503}


class TestOllama(ProviderContract):
    plugin = OllamaProvider
    secret = KEY
    codes = tuple(REFUSALS)
    answers = (line("Good") + line(" morning", done=True, done_reason="stop"),)

    def settings(self):
        return {"base_url": "http://127.0.0.1:1", "api_key": KEY}

    @asynccontextmanager
    async def serving(self, reply):
        with ScriptedServer(default=reply) as server:

            async def closed():
                await server.requests[0].closed.happened()

            yield Case(
                provider=OllamaProvider("kit", {**self.settings(), "base_url": server.url}),
                request={"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]},
                text="Good morning",
                arrived=server.received(1).happened,
                closed=closed,
            )

    def answering(self):
        return self.serving(answer)

    def pausing(self):
        return self.serving(Reply(body=[line("Good"), Action.HANG]))

    def silent(self):
        return self.serving(Reply.raw(Action.HANG))

    def breaking_off(self):
        return self.serving(Reply(body=[line("Good")]))

    def failing(self, code):
        return self.serving(Reply.json({"error": f"no, {KEY}"}, REFUSALS[code]))

    def garbage(self, body):
        return self.serving(lambda _: Reply(body=[body()]))


def test_an_answer_may_come_cut_at_any_byte():
    body = line("Gr\u00fc\u00df") + line(" Gott \u2600") + line("", done=True, done_reason="stop")
    chunks, error = decode_every_way(lambda: Decoder(stream=True), body)
    assert error is None
    assert [chunk.data["choices"][0]["delta"]["content"] for chunk in chunks] == ["Gr\u00fc\u00df", " Gott \u2600", ""]
