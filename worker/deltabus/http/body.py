"""Bodies: what the settings add to the producer's, how a request's is written and an answer's is read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from deltabus.http import errors
from deltabus.provider import InvalidRequest, ProviderProtocol


def merge(
    body: Mapping[str, Any],
    *,
    model: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    forced: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A request with what the settings add.

    Args:
        body: the producer's request, which is not changed.
        model: what to ask for where the request names no model (or `default`).
        defaults: parameters that the request gets where it lacks them. `stream_options` among them is for
            streamed requests only, since OpenAI refuses it elsewhere.
        forced: parameters that replace the request's own.

    Raises:
        InvalidRequest: neither the request nor the settings name a model.
    """
    merged = {**body, **{key: value for key, value in (defaults or {}).items() if key not in body}, **(forced or {})}
    if "stream_options" not in body and not merged.get("stream") and "stream_options" not in (forced or {}):
        merged.pop("stream_options", None)
    if merged.get("model") in (None, "", "default"):
        if model is not None:
            merged["model"] = model
        elif not merged.get("model"):
            raise InvalidRequest(
                "the request names no model, and the provider has no default: name one, or set `model` in its table",
                param="request.model",
            )
    return merged


def encode(document: Any) -> bytes:
    """A document as JSON.

    Raises:
        InvalidRequest: a value in it has no JSON form.
    """
    try:
        return msgspec.json.encode(document)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidRequest(f"the request cannot be written as JSON: {exc}", param="request") from exc


def decode(data: bytes) -> Any:
    """The body of a 2xx that is to be JSON.

    Raises:
        TaskError: it is not, or it is an error all the same.
    """
    try:
        answer = msgspec.json.decode(data)
    except (ValueError, RecursionError) as exc:
        raise ProviderProtocol("it answers, but not with JSON: base_url is probably wrong") from exc
    if (error := errors.find(answer)) is not None:
        raise errors.from_body(error)
    return answer
