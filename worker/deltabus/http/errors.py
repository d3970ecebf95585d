"""What went wrong, from what the provider said: a status, headers, a body. Pure: classes out, nothing raised.

Three sources are asked in turn, the most specific first: names that mean one thing wherever they appear
(`insufficient_quota`), the HTTP status (of the answer, or an integer `code` in a body that came with
HTTP 200), and names that only say a direction (`server_error`).
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from deltabus.provider import (
    Authentication,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    Permission,
    ProviderProtocol,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    TaskError,
    Unsupported,
)

#: Characters of a provider's error text that are passed on.
MAX_MESSAGE = 1000
#: Characters of a page that is not JSON (a proxy's error page) that are passed on.
MAX_EXCERPT = 200

#: `error.code`, `error.type`, `error.status` or a detail's `reason` that outweigh the HTTP status.
_SPECIFIC: Mapping[str, type[TaskError]] = {
    # OpenAI: https://platform.openai.com/docs/guides/error-codes
    "insufficient_quota": QuotaExhausted,
    "billing_hard_limit_reached": QuotaExhausted,
    "billing_not_active": QuotaExhausted,
    "invalid_api_key": Authentication,
    "account_deactivated": Authentication,
    "model_not_found": NotFound,
    "context_length_exceeded": InvalidRequest,
    "content_policy_violation": InvalidRequest,
    "unsupported_country_region_territory": Permission,
    "rate_limit_exceeded": RateLimited,
    "slow_down": RateLimited,
    # Azure
    "content_filter": InvalidRequest,
    "deploymentnotfound": NotFound,
    # Anthropic: https://platform.claude.com/docs/en/api/errors
    "billing_error": QuotaExhausted,
    "overloaded_error": ProviderUnavailable,
    "enforced_spend_limit_reached": QuotaExhausted,  # A 429 until the next month.
    # Moonshot
    "exceeded_current_quota_error": QuotaExhausted,
    # Google: a bad key is a 400 there
    "api_key_invalid": Authentication,
    "unauthenticated": Authentication,
    # llama.cpp's server: https://github.com/ggml-org/llama.cpp/tree/master/tools/server
    "exceed_context_size_error": InvalidRequest,
    "not_supported_error": Unsupported,
    # LiteLLM's proxy without a database knows one key; any other is a 400 there
    "no_db_connection": Authentication,
}

#: Names that decide only where no HTTP status does.
_GENERAL: Mapping[str, type[TaskError]] = {
    "invalid_request_error": InvalidRequest,
    "invalid_request": InvalidRequest,
    "invalid_argument": InvalidRequest,
    "failed_precondition": InvalidRequest,
    "out_of_range": InvalidRequest,
    "badrequesterror": InvalidRequest,
    "validation_error": InvalidRequest,
    "authentication_error": Authentication,
    "authenticationerror": Authentication,
    "permission_error": Permission,
    "permission_denied": Permission,
    "permissiondeniederror": Permission,
    "not_found": NotFound,
    "not_found_error": NotFound,
    "notfounderror": NotFound,
    "rate_limit_error": RateLimited,
    "ratelimiterror": RateLimited,
    "rate_limited": RateLimited,
    "too_many_requests": RateLimited,
    "resource_exhausted": RateLimited,
    "request_too_large": PayloadTooLarge,
    "timeout": ProviderTimeout,
    "timeout_error": ProviderTimeout,
    "deadline_exceeded": ProviderTimeout,
    "unimplemented": Unsupported,
}

#: Statuses that do not mean what their hundred means.
_STATUS: Mapping[int, type[TaskError]] = {
    401: Authentication,
    402: QuotaExhausted,
    403: Permission,
    404: NotFound,
    405: NotFound,  # A path that takes no POST: base_url points at something else.
    408: ProviderTimeout,
    409: ProviderUnavailable,  # OpenAI's SDK retries it: a lock that was not free.
    410: NotFound,
    413: PayloadTooLarge,
    423: ProviderUnavailable,
    424: ProviderUnavailable,  # Text Generation Inference: the generation failed.
    425: ProviderUnavailable,
    429: RateLimited,
    498: RateLimited,  # Groq: flex tier at capacity.
    499: ProviderUnavailable,
    501: Unsupported,
}

#: How deep in an error its text is looked for.
_DEPTH = 4

#: What an error message may contain of a key even though it is not the configured one, or is shortened.
_SECRETS = re.compile(
    r"(?i)bearer\s+(?:[^\s\"',;.]|\.(?=\w))+"
    r"|\b(?:sk|pk|rk|gsk|xai|pplx|hf|sess|nvapi|csk|fw|tgp)[-_](?:[\w\-*…]|\.(?=[\w.])){6,}"
    r"|\bAIza[\w\-]{10,}"
    r"|[\w\-]*\*{3,}[\w\-*]*"
)


def from_answer(status: int, headers: Mapping[str, str], body: bytes) -> TaskError:
    """The error that an answer other than 2xx is.

    Args:
        status: of the answer.
        headers: of the answer; lower-case names.
        body: of the answer, or its beginning.
    """
    if status < 400:
        return _redirect(status, headers)
    found = find(_parse(body))
    if found is None:
        found = {"message": _excerpt(body)}
    error = from_body(found, status)
    seconds = retry_after(headers)
    if seconds is not None:
        error.retry_after = seconds
    error.should_retry = {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())
    return error


def find(document: Any) -> dict[str, Any] | None:
    """The error object in a decoded body; None where the body reports none.

    Knows `{"error": {…}}`, `{"error": "text"}`, the same in an array (Gemini), flat objects (vLLM's
    `{"object": "error", …}`, `{"message": …}` without `choices`) and FastAPI's `detail`.
    """
    if isinstance(document, list):
        documents = (item for item in document[:8] if isinstance(item, dict))
        return next((found for item in documents if (found := find(item)) is not None), None)
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if isinstance(error, dict) and error:
        return error
    if error:
        return {**document, "message": document.get("message") or _text(error)}
    if document.get("object") == "error":
        return document
    if "choices" in document or "data" in document:
        return None
    if isinstance(document.get("errors"), list) and document["errors"]:
        first = document["errors"][0]
        return first if isinstance(first, dict) else {"message": _text(first)}
    if isinstance(document.get("message"), str) or "detail" in document:
        return document
    return None


def from_body(error: Mapping[str, Any], status: int | None = None) -> TaskError:
    """The error that an error object is.

    Args:
        error: the object, as `find` returns it.
        status: of the answer, where it was an error; an integer `code` in the object serves otherwise.
    """
    if status is None:
        status = _status_in(error)
    names = [name.lower() for name in _names(error)]
    kind = (
        next((_SPECIFIC[name] for name in names if name in _SPECIFIC), None)
        or (_of_status(status) if status is not None else None)
        or next((_GENERAL[name] for name in names if name in _GENERAL), None)
        or ProviderUnavailable
    )
    message = error.get("message")
    if not isinstance(message, str) or not message.strip():
        message = _text(error.get("detail") or message or error.get("code") or error.get("type"))
    message = " ".join(message.split()) + _upstream(error)
    if not message:
        message = "the provider reported an error without a text" + (f" (HTTP {status})" if status else "")
    param = error.get("param")
    return kind(
        message[:MAX_MESSAGE],
        status=status,
        param=_path(param) if isinstance(param, str) and param else None,
        retry_after=_retry_delay(error),
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms`, `retry-after` (seconds or an HTTP date) or a limit; None if none says."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if not text:
            continue
        try:
            seconds = float(text) / unit
        except ValueError:
            try:
                seconds = max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
            except (ValueError, OverflowError):
                continue
        if 0 <= seconds < float("inf"):
            return seconds
    return _reset(headers)


def _reset(headers: Mapping[str, str]) -> float | None:
    """Seconds until what is used up is reset: https://platform.claude.com/docs/en/api/rate-limits#response-headers."""
    waits = []
    for limit in ("requests", "tokens", "input-tokens", "output-tokens"):
        if headers.get(f"anthropic-ratelimit-{limit}-remaining", "").strip() == "0":
            with contextlib.suppress(ValueError):
                reset = datetime.fromisoformat(headers.get(f"anthropic-ratelimit-{limit}-reset", ""))
                waits.append(max(0.0, reset.timestamp() - time.time()))
    return max(waits, default=None)


def request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's own id of the request, under the name its vendor uses."""
    for name in ("x-request-id", "request-id", "apim-request-id", "x-ms-request-id", "x-ds-trace-id"):
        if value := headers.get(name, "").strip():
            return value[:200]
    return None


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """The text without credentials: those configured, and whatever looks like one (whole, or shortened with `***`)."""
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    return _SECRETS.sub("[redacted]", text)


def _redirect(status: int, headers: Mapping[str, str]) -> TaskError:
    where = headers.get("location", "").partition("?")[0].rpartition("@")[2]
    return ProviderProtocol(
        f"the provider redirects (HTTP {status}{f' to {where[:MAX_EXCERPT]}' if where else ''}); redirects are not "
        "followed, since they would take the credentials along: set base_url to the final address",
        status=status,
        should_retry=False,
    )


def _of_status(status: int) -> type[TaskError] | None:
    if status in _STATUS:
        return _STATUS[status]
    if 400 <= status < 500:
        return InvalidRequest
    return ProviderUnavailable if 500 <= status < 600 else None


def _names(error: Mapping[str, Any]) -> list[str]:
    """The words that classify: code, type, Google's status, the reasons in details, Azure's inner code."""
    names = [error.get("code"), error.get("type"), error.get("status")]
    inner = error.get("innererror")
    if isinstance(inner, dict):
        names.append(inner.get("code"))
    names.extend(detail.get(key) for detail in _details(error) for key in ("reason", "error_code"))
    return [name for name in names if isinstance(name, str)]


def _details(error: Mapping[str, Any]) -> list[dict[str, Any]]:
    details = error.get("details")
    details = [details] if isinstance(details, dict) else details
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def _status_in(error: Mapping[str, Any]) -> int | None:
    for key in ("code", "status_code", "status", "http_status"):
        value = error.get(key)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:4])
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None


def _upstream(error: Mapping[str, Any]) -> str:
    """OpenRouter says only "Provider returned error"; what the provider behind it said is in `metadata.raw`."""
    metadata = error.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("raw"), str):
        return ""
    return f" ({metadata.get('provider_name') or 'upstream'}: {' '.join(metadata['raw'].split())[:MAX_EXCERPT]})"


def _retry_delay(error: Mapping[str, Any]) -> float | None:
    """Google's `google.rpc.RetryInfo`: `{"retryDelay": "27.5s"}` among the details."""
    for detail in _details(error):
        match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)s", str(detail.get("retryDelay", "")))
        if match:
            return float(match[1])
    return None


def _path(param: str) -> str:
    """OpenAI's `messages.[0].content` and `messages[0].content` as a path from the request."""
    return "request." + param[:MAX_EXCERPT].replace(".[", "[")


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8", "replace").strip("\ufeff"))
    except (ValueError, RecursionError):
        return None


def _text(value: Any, depth: int = _DEPTH) -> str:
    """What a person can read of an error that is not a plain text; nothing of what lies deeper than that."""
    if isinstance(value, str):
        return value
    if value is None or (depth == 0 and isinstance(value, list | dict)):
        return ""
    if isinstance(value, list):  # FastAPI: [{"loc": ["body", "messages"], "msg": "field required"}]
        parts = (
            f"{'.'.join(_text(step, 0) for step in item['loc'])}: {_text(item.get('msg'), depth - 1)}"
            if isinstance(item, dict) and isinstance(item.get("loc"), list)
            else _text(item, depth - 1)
            for item in value[:8]
        )
        return "; ".join(part for part in parts if part)
    if isinstance(value, dict):
        return _text(value.get("message") or value.get("msg") or value.get("detail"), depth - 1)
    return str(value)


def _excerpt(body: bytes) -> str:
    """The beginning of a page that is not JSON, as text."""
    text = body[:4096].decode("utf-8", "replace")
    if "<" in text:
        text = re.sub(r"(?is)<(script|style|head)\b.*?</\1>|<[^>]*>", " ", text)
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text[:MAX_EXCERPT]
