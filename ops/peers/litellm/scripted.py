"""What LiteLLM's mocks cannot say: streamed tool calls, and an error in the middle of a stream.

Loaded by LiteLLM, in its own environment. A handler yields LiteLLM's internal chunks; the HTTP
answer around them, byte for byte, is LiteLLM's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from litellm.llms.custom_llm import CustomLLM, CustomLLMError
from litellm.types.utils import GenericStreamingChunk, ModelResponse

#: Two calls, their arguments in pieces as models write them.
CALLS = (
    ("call_weather", "get_weather", ('{"city"', ': "Par', 'is"}')),
    ("call_time", "get_time", ('{"zone": ', '"CET"}')),
)
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


class Scripted(CustomLLM):
    """Models `tools` (two parallel calls) and `cut-off` (two words, then a 500)."""

    async def acompletion(self, model: str, messages: list[Any], *_: Any, **__: Any) -> ModelResponse:
        calls = [
            {"id": call, "type": "function", "function": {"name": name, "arguments": "".join(arguments)}}
            for call, name, arguments in CALLS
        ]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        return ModelResponse(
            model=model,
            choices=[{"index": 0, "finish_reason": "tool_calls", "message": message}],
            usage=USAGE,
        )

    async def astreaming(
        self, model: str, messages: list[Any], *_: Any, **__: Any
    ) -> AsyncIterator[GenericStreamingChunk]:
        if model == "cut-off":
            yield _chunk("Two ")
            yield _chunk("words")
            raise CustomLLMError(status_code=500, message="scripted failure in the middle of the stream")
        for index, (call, name, arguments) in enumerate(CALLS):
            yield _chunk(index=index, id=call, function={"name": name, "arguments": ""})
            for piece in arguments:
                yield _chunk(index=index, id=None, function={"name": None, "arguments": piece})
        yield {**_chunk(), "is_finished": True, "finish_reason": "tool_calls", "usage": USAGE}


def _chunk(text: str = "", **call: Any) -> GenericStreamingChunk:
    return {
        "text": text,
        "tool_use": {"type": "function", **call} if call else None,
        "is_finished": False,
        "finish_reason": "",
        "usage": None,
        "index": 0,
    }


handler = Scripted()
