"""The chat task."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from deltabus.attachments import fastened
from deltabus.chat import request as rules
from deltabus.chat.accumulator import Accumulator
from deltabus.chat.parts import inline_bytes
from deltabus.context import Context
from deltabus.errors import PayloadTooLarge
from deltabus.inlining import inlined, is_wanted
from deltabus.provider import ChatRequest, Completion, Provider
from deltabus.tasks.function import task


@task
async def chat(context: Context) -> Any:
    """A chat completion: checks the request, streams the provider's chunks, returns the `chat.completion`."""
    envelope = context.envelope
    name, provider = context.resolve()
    capabilities = provider.capabilities
    if not envelope.attachments and not is_wanted(envelope.request, capabilities):
        return await _answer(context, provider, rules.prepare(envelope.request, capabilities))
    async with context.depot.room.share(context.settings.max_inline_bytes) as share:
        request = await inlined(envelope.request, context, provider)
        async with fastened(request, context, name, capabilities) as whole:
            share.shrink(inline_bytes(whole.get("messages")))
            return await _answer(context, provider, rules.prepare(whole, capabilities))


async def _answer(context: Context, provider: Provider, body: Mapping[str, Any]) -> Any:
    attempt = context.attempt
    request = context.request(ChatRequest, body=body)
    answer = Accumulator()
    attempt.snapshot = lambda: [msgspec.json.encode(chunk) for chunk in answer.snapshot()]
    room = context.settings.max_answer_bytes
    async with aclosing(provider.chat(request)) as items:  # type: ignore[type-var] # an async generator in practice
        async for item in items:
            if isinstance(item, Completion):
                return item.data
            if item.text is not None:
                answer.add_text(*item.text)
            else:
                answer.add(item.data)
                context.partial = answer.completion
            await attempt.write(item.raw)
            room -= len(item.raw)
            if room < 0:
                raise PayloadTooLarge(
                    f"the answer is over {context.settings.max_answer_bytes} bytes (`max_answer_bytes`)"
                )
            del item  # as its memory is of use to the next stream at once, and not when this one goes on
    return answer.completion()
