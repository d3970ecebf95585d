"""A call of a provider in the words of OpenTelemetry's conventions for generative AI, never with what was said. Pure.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ (version 1.37)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

#: An attribute: its name and value.
Attribute = tuple[str, str | int | float | bool | list[str]]

#: Operations by task function, where the conventions know one; others are called as the function.
_OPERATIONS: Final = {"images": "generate_content", "speech": "generate_content"}

#: What is asked for, by task function, where the conventions have a word for it.
_OUTPUTS: Final = {"images": "image", "speech": "speech"}

#: Task functions that are no calls of a model.
_OTHERS: Final = ("file", "models")

#: The conventions' names of APIs, by plugin, where they are not the plugin's.
_PROVIDERS: Final = {"gemini": "gcp.gemini"}

#: Parameters of a request that are told, and what of them is.
_PARAMETERS: Final[Mapping[str, tuple[str, type]]] = {
    "temperature": ("gen_ai.request.temperature", float),
    "top_p": ("gen_ai.request.top_p", float),
    "frequency_penalty": ("gen_ai.request.frequency_penalty", float),
    "presence_penalty": ("gen_ai.request.presence_penalty", float),
    "max_tokens": ("gen_ai.request.max_tokens", int),
    "max_completion_tokens": ("gen_ai.request.max_tokens", int),
    "seed": ("gen_ai.request.seed", int),
    "n": ("gen_ai.request.choice.count", int),
}

#: Counts of an answer's `usage`, by their paths.
_USAGE: Final[Mapping[tuple[str, ...], str]] = {
    ("prompt_tokens",): "gen_ai.usage.input_tokens",
    ("completion_tokens",): "gen_ai.usage.output_tokens",
    ("prompt_tokens_details", "cached_tokens"): "gen_ai.usage.cache_read.input_tokens",
    ("completion_tokens_details", "reasoning_tokens"): "gen_ai.usage.reasoning.output_tokens",
}

#: What a span takes of what producers and providers choose: characters of a text, items of a list, and numbers below.
#: OTLP has 64 bits for an integer; one that has more would cost the spans that go out together with it.
_TEXT: Final = 256
_ITEMS: Final = 128
_NUMBER: Final = 2**63


def name(function: str, model: str) -> str:
    """What the span of a call is called."""
    operation = _OPERATIONS.get(function, function)
    return f"{operation} {text(model)}" if model and function not in _OTHERS else operation


def asked(function: str, request: Mapping[str, Any]) -> Iterator[Attribute]:
    """What a request says of itself."""
    if function in _OTHERS:
        return
    yield "gen_ai.operation.name", _OPERATIONS.get(function, function)
    if function in _OUTPUTS:
        yield "gen_ai.output.type", _OUTPUTS[function]
    if model := text(request.get("model")):
        yield "gen_ai.request.model", model
    if request.get("stream") is True:
        yield "gen_ai.request.stream", True
    for parameter, (attribute, kind) in _PARAMETERS.items():
        value = request.get(parameter)
        if isinstance(value, int | float) and _fits(value) and (parameter, value) != ("n", 1):
            yield attribute, kind(value)


def provider(plugin: str) -> Attribute:
    """Whose API it is."""
    return "gen_ai.provider.name", _PROVIDERS.get(plugin, plugin)


def answered(result: Any) -> Iterator[Attribute]:
    """What an answer says of itself: an OpenAI-shaped object."""
    if not isinstance(result, dict):
        return
    if model := text(result.get("model")):
        yield "gen_ai.response.model", model
    if (answer := text(result.get("id"))) and "choices" in result:
        yield "gen_ai.response.id", answer
    choices = result.get("choices")
    choices = choices[:_ITEMS] if isinstance(choices, list) else []
    reasons = [text(choice.get("finish_reason")) for choice in choices if isinstance(choice, dict)]
    if any(reasons):
        yield "gen_ai.response.finish_reasons", reasons
    for path, attribute in _USAGE.items():
        value: Any = result.get("usage")
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, int) and _fits(value):
            yield attribute, value


def text(value: Any) -> str:
    """As much of a text as a span takes; empty: it is none."""
    return value[:_TEXT].encode(errors="replace").decode() if isinstance(value, str) else ""


def _fits(value: float) -> bool:
    return not isinstance(value, bool) and -_NUMBER <= value < _NUMBER
