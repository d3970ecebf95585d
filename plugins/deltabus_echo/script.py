"""What the `echo` object of a request, or the provider's own table, may ask for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from deltabus import provider as seam
from deltabus.provider import ConfigError, InvalidRequest, TaskError

#: The errors that a script can ask for, by code.
ERRORS: Final[Mapping[str, type[TaskError]]] = {
    error.code: error
    for error in (getattr(seam, name) for name in seam.__all__)
    if isinstance(error, type) and issubclass(error, TaskError) and error is not TaskError
}

#: The `error` that is none of a provider's: an exception as a bug in a plugin would raise it.
CRASH: Final = "crash"

Count = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function call that the answer makes."""

    name: str
    #: An object, or the string to send as it is (which need not be JSON: models slip up too).
    arguments: dict[str, Any] | str = {}
    id: str | None = None


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to answer. Where it is silent, the text of the last user message comes back.

    The words of reasoning, content and tool-call arguments are counted in the order in which they
    are streamed; `…_after: 0` strikes before the first chunk, and one beyond the last word never.
    """

    #: What to say, instead of the last user message.
    text: str | None = None
    #: How many words to say: of `text`, or else of a passage of our own, over and over.
    words: Count | None = None
    #: Words in one chunk.
    chunk_words: Positive = 1
    #: Seconds from one chunk to the next, on average: a late one is made up for.
    interval: Seconds = 0.0
    #: Reasoning text, streamed before the content as `reasoning_content`.
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    #: Instead of `stop`, `length` or `tool_calls`.
    finish_reason: str | None = None
    #: Laid over the counted usage.
    usage: dict[str, Any] = {}
    #: After so many words, fail with `error`.
    fail_after: Count | None = None
    #: A code of `ERRORS`, or `crash`. Alone, it means `fail_after: 0`.
    error: str | None = None
    #: Seconds after which to come back, as a part of the error.
    retry_after: Seconds | None = None
    #: After so many words, fall silent until cancelled.
    stall_after: Count | None = None
    #: After so many words, end without saying that it was complete.
    truncate_after: Count | None = None
    #: Only so many first attempts at a task fail, stall or are truncated; None: all of them.
    fail_attempts: Count | None = None


_FIELDS = tuple(field.name for field in msgspec.structs.fields(Script))


def of_settings(table: Mapping[str, Any]) -> dict[str, Any]:
    """A provider's table, checked: what its requests' scripts fall back to.

    Raises:
        ConfigError: the message names the key and the fix.
    """
    problem, key = _check(table)
    if problem:
        raise ConfigError(f"`{key}`: {problem}")
    return dict(table)


def of_request(body: Mapping[str, Any], defaults: Mapping[str, Any]) -> Script:
    """The script of a request.

    Raises:
        InvalidRequest: `param` names the key; the message says what it must be.
    """
    script = body.get("echo", {})
    if not isinstance(script, Mapping):
        raise InvalidRequest("must be an object: the script of the echo provider", param="request.echo")
    problem, key = _check(script)
    if problem:
        raise InvalidRequest(problem, param=f"request.echo.{key}")
    return msgspec.convert({**defaults, **script}, Script)


def _check(script: Mapping[str, Any]) -> tuple[str, str]:
    """What is wrong, and with which key; two empty strings where nothing is."""
    for key in script:
        if key not in _FIELDS:
            near = difflib.get_close_matches(str(key), _FIELDS, n=1)
            return f"unknown key; did you mean `{near[0]}`?" if near else f"unknown key; {_LIST}", str(key)
    try:
        checked = msgspec.convert(dict(script), Script)
    except msgspec.ValidationError as exc:
        message, _, path = str(exc).partition(" - at `$.")
        return message, path.rstrip("`").replace("[...]", ".*")
    if checked.error is not None and checked.error not in {*ERRORS, CRASH}:
        near = difflib.get_close_matches(checked.error, [*ERRORS, CRASH], n=1)
        return f"unknown error code; did you mean `{near[0]}`?" if near else f"must be one of {_CODES}", "error"
    return "", ""


_LIST = f"a script has {', '.join(_FIELDS)}"
_CODES = ", ".join([*sorted(ERRORS), CRASH])
