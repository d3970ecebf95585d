"""OpenAI's shapes, for plugins whose API has others: requests taken apart, answers put together. Pure."""

from __future__ import annotations

import base64
import struct
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from deltabus.chat.accumulator import Accumulator
from deltabus.provider import Chunk, Completion, InvalidRequest, ProviderProtocol, Unsupported

#: Parameters of a chat request that OpenAI's API documents.
PARAMETERS: Final = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)


def native(body: Mapping[str, Any], *kept: str) -> dict[str, Any]:
    """What of a request an API gets as it is: parameters that are not OpenAI's, and those of them that are named."""
    return {key: value for key, value in body.items() if value is not None and (key not in PARAMETERS or key in kept)}


def refuse(body: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    """Refuse parameters without which an answer would not be what was asked for.

    Args:
        body: a request.
        reasons: parameter -> what to do instead.

    Raises:
        Unsupported: it has one of them; `param` names it.
    """
    for key, reason in reasons.items():
        if body.get(key):
            raise Unsupported(f"this provider has no `{key}`: {reason}", param=f"request.{key}")


def turns(
    messages: Iterable[dict[str, Any]],
    roles: Mapping[str, str],
    key: str,
    translate: Callable[[dict[str, Any], str], list[dict[str, Any]]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The messages of a request for APIs that have turns: one for all that one side says, the system's words apart.

    Args:
        messages: of the request.
        roles: OpenAI's role -> the API's; `system` where it belongs to the system's words.
        key: under which a turn has what it says.
        translate: a message, and its path for errors -> what it says.

    Returns:
        what the system says, and the turns.

    Raises:
        Unsupported: a message has a role for which there is none.
    """
    system: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        where = f"request.messages[{place}]"
        if (role := roles.get(message["role"])) is None:
            known = ", ".join(roles)
            raise Unsupported(f"this provider has no such role; it knows {known}", param=f"{where}.role")
        said = translate(message, where)
        if not said and message["role"] == "assistant":
            continue  # An answer that was empty; APIs refuse a turn in which nothing is said.
        if role == "system":
            system += said
        elif found and found[-1]["role"] == role:
            found[-1][key] += said
        else:
            found.append({"role": role, key: said})
    return system, found


def function(call: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a call in an assistant's message.

    Args:
        call: an item of `tool_calls`.
        where: its path, for errors.

    Raises:
        InvalidRequest: the arguments are not a JSON object.
        Unsupported: it calls no function.
    """
    if not isinstance(called := call.get("function"), dict):
        raise Unsupported("this provider knows no tools but functions", param=where)
    try:
        arguments = msgspec.json.decode(called.get("arguments") or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise InvalidRequest("must be a JSON object, in a string", param=f"{where}.function.arguments") from exc
    return called["name"], arguments


def head(id: str, model: str) -> dict[str, Any]:
    """What all chunks of an answer begin with; where the API gives no id, one is made."""
    return {
        "id": id or f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }


def chunk(head: Mapping[str, Any], delta: dict[str, Any], finish: str | None = None, *, index: int = 0) -> Chunk:
    """A chunk of one choice."""
    return Chunk.of({**head, "choices": [{"index": index, "delta": delta, "finish_reason": finish}]})


def tool_call(index: int, arguments: Any, *, id: str | None = None, name: str | None = None) -> dict[str, Any]:
    """A delta's piece of a call: its beginning, where there is a name.

    Args:
        index: of the call among the calls of the answer.
        arguments: a piece of JSON, or an object.
    """
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    if name is None:
        return {"index": index, "function": {"arguments": text}}
    return {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": text}}


def usage(prompt: int, completion: int, *, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    """Tokens: of the prompt, those from a cache among them; of the answer, those of reasoning among them."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def completion(chunks: Iterable[Chunk]) -> Completion:
    """The completion that chunks add up to.

    Raises:
        ProviderProtocol: there is no choice in them.
    """
    accumulator = Accumulator()
    for each in chunks:
        accumulator.add(each.data)
    whole = accumulator.completion()
    if not whole["choices"]:
        raise ProviderProtocol("the provider's answer holds no choice")
    return Completion(whole)


def embeddings(vectors: Any, body: Mapping[str, Any], tokens: int = 0) -> dict[str, Any]:
    """An answer to a request for embeddings, in the `encoding_format` that it asks for.

    Args:
        vectors: one for each input.
        body: of the request.
        tokens: of the inputs; 0 where the API does not say.

    Raises:
        ProviderProtocol: they are not lists of numbers.
    """
    try:
        vectors = msgspec.convert(vectors, list[list[float]])
    except msgspec.ValidationError as exc:
        raise ProviderProtocol("the answer holds no embeddings") from exc
    packed = body.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": place,
            "embedding": base64.b64encode(struct.pack(f"<{len(each)}f", *each)).decode() if packed else each,
        }
        for place, each in enumerate(vectors)
    ]
    spent = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": body.get("model"), "usage": spent}


def texts(body: Mapping[str, Any]) -> list[str]:
    """The inputs of a request for embeddings.

    Raises:
        InvalidRequest: there are none, or they are not texts.
    """
    given = body.get("input")
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        raise InvalidRequest("must be a text, or a list of texts", param="request.input")
    return found


def models(
    listed: Any,
    key: str,
    owner: str,
    *,
    id: Callable[[dict[str, Any]], str],
    created: Callable[[dict[str, Any]], int] = lambda _: 0,
) -> list[dict[str, Any]] | None:
    """The models in an API's list of them; None if that is not what it is.

    Args:
        listed: the answer, decoded.
        key: under which it has them.
        owner: whose they are.
        id, created: of an item of the list; `created` in Unix time.
    """
    found = listed.get(key) if isinstance(listed, dict) else None
    if not isinstance(found, list):
        return None
    items = [item for item in found if isinstance(item, dict)]
    return [{**item, "id": id(item), "object": "model", "created": created(item), "owned_by": owner} for item in items]
