"""Rules of a chat request: what is checked, and translated, before a provider is called. Pure.

The rules are those of the OpenAI API's `POST /chat/completions`
(github.com/openai/openai-openapi, `CreateChatCompletionRequest`), applied so that other servers
which speak it are not shut out:

- a key that is not listed here is forwarded untouched, at any depth; so are new types of parts,
  tools and response formats, unless they are evidently a misspelling of a known one;
- null means "not set" for every optional field, as clients that serialise their own types write it;
- `model` may be left out: routing or the provider decides. It is not filled in here;
- with `Capabilities.strict_ranges` off, the API's limits on numbers, lengths and names are left to
  the provider. Types are checked all the same, and a boolean is never a number;
- nothing is added to the request. In particular `stream_options.include_usage` is the producer's
  word: there are servers that refuse fields they do not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from deltabus.chat import messages
from deltabus.chat.parameters import Rule, check, integer, number, string, strings
from deltabus.errors import InvalidRequest
from deltabus.fields import Field
from deltabus.provider import Capabilities

#: Names of functions, custom tools and JSON schemas.
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_INT64: Final = 2**63

_TOOL_TYPES: Final = ("function", "custom")
_TOOL_CHOICES: Final = ("none", "auto", "required")
_TOOL_CHOICE_TYPES: Final = ("function", "custom", "allowed_tools")
_FORMATS: Final = ("text", "json_object", "json_schema")

#: Longest list of deprecated functions.
_MAX_FUNCTIONS: Final = 128
_MAX_STOPS: Final = 4
_MAX_METADATA: Final = 16
_MAX_METADATA_KEY: Final = 64
_MAX_METADATA_VALUE: Final = 512


def prepare(request: Mapping[str, Any], capabilities: Capabilities) -> dict[str, Any]:
    """The request as the provider gets it: checked, and translated where the provider needs that.

    Translated are content parts of the Responses API (see `messages`), image URLs given as plain
    strings, and tool-call ids that the provider would not take.

    The result is a new object; what needed no translation is shared with `request`, which is not
    changed.

    Raises:
        InvalidRequest: a rule of the API is broken; `param` is the JSON path of the field.
        Unsupported: the rules are kept, but this provider cannot do it; `param` as above.
    """
    if not isinstance(request, Mapping):
        raise InvalidRequest('`request` must be an object such as {"messages": […]}', param="request")
    body = dict(request)
    root = Field("request", body)
    root.check_encodable()
    if "model" in body and not root.child("model").string("the name of a model"):
        raise root.child("model").error("must not be empty; leave it out to let the bus choose")
    for name, rule in _PARAMETERS.items():
        if body.get(name) is not None:  # most are not set: no field is made of those, which takes longer
            rule(root.child(name), capabilities.strict_ranges)
    _check_stream(root, capabilities)
    _check_logprobs(root, capabilities)
    _check_n(root.child("n"), capabilities)
    if not _TOOL_PARAMETERS.isdisjoint(body):
        _check_tools(root, capabilities)
    body["messages"] = messages.prepare(root.child("messages"), capabilities)
    return body


def _check_stream(root: Field, capabilities: Capabilities) -> None:
    stream = root.child("stream")
    if stream.value is True and not capabilities.streaming:
        raise stream.unsupported("this provider cannot stream; set it to false for one answer at the end")
    options = root.child("stream_options")
    if not options.unset and stream.value is not True:
        raise options.error("is allowed only together with `stream`: true; leave it out otherwise")


def _check_logprobs(root: Field, capabilities: Capabilities) -> None:
    logprobs, top = root.child("logprobs"), root.child("top_logprobs")
    if not top.unset and logprobs.value is not True:
        raise top.error("is allowed only together with `logprobs`: true")
    if logprobs.value is True and not capabilities.logprobs:
        raise logprobs.unsupported("this provider gives no log probabilities; leave it out, and `top_logprobs` too")


def _check_n(n: Field, capabilities: Capabilities) -> None:
    if n.unset:
        return
    if n.integer() < 1:
        raise n.error("must be at least 1")
    if capabilities.max_n is not None and n.integer() > capabilities.max_n:
        raise n.unsupported(
            f"this provider gives at most {capabilities.max_n} choices a request; "
            "ask for fewer, or split the request into several tasks"
        )


_TOOL_PARAMETERS: Final = frozenset({"tools", "functions", "tool_choice", "function_call"})


def _check_tools(root: Field, capabilities: Capabilities) -> None:
    for name in ("tools", "functions"):
        field = root.child(name)
        if field.value and not field.unset and not capabilities.tools:
            raise field.unsupported("this provider cannot call tools; leave it out, or choose another provider")
    tools, choice = root.child("tools"), root.child("tool_choice")
    if not choice.unset:
        _check_choice(choice, [] if tools.unset else list(tools.items()))
    functions, call = root.child("functions"), root.child("function_call")
    if not call.unset and isinstance(call.value, dict):
        known = [] if functions.unset else [_text(item.value, "name") for item in functions.items()]
        _check_named(call.child("name"), known, "request.functions")


def _check_choice(choice: Field, tools: list[Field]) -> None:
    if isinstance(choice.value, str):
        if choice.one_of(_TOOL_CHOICES) == "required" and not tools:
            raise choice.error("requires a tool, but there are none in `request.tools`")
        return
    choice.object(f"one of {', '.join(_TOOL_CHOICES)}, or an object that names a tool")
    kind = choice.child("type").word(_TOOL_CHOICE_TYPES)
    if kind != "allowed_tools":
        _check_reference(choice, kind, tools)
        return
    allowed = choice.child("allowed_tools")
    allowed.object()
    allowed.child("mode").one_of(("auto", "required"))
    for item in allowed.child("tools").items():
        item.object()
        _check_reference(item, item.child("type").word(_TOOL_TYPES), tools)


def _check_reference(field: Field, kind: str, tools: Iterable[Field]) -> None:
    """`{"type": "function", "function": {"name": …}}` must name one of the tools."""
    if kind in _TOOL_TYPES:
        target = field.child(kind)
        target.object()
        known = [_text(tool.child(kind).value, "name") for tool in tools]
        _check_named(target.child("name"), known, "request.tools")


def _check_named(name: Field, known: Iterable[str | None], where: str) -> None:
    names = [each for each in known if each]
    if not names:
        name.string()
        raise name.error(f"must name one of `{where}`, but there are none of that type")
    name.one_of(names)


def _text(value: object, key: str) -> str | None:
    text = value.get(key) if isinstance(value, dict) else None
    return text if isinstance(text, str) else None


# What follows checks one parameter at a time.


def _boolean(field: Field, _: bool) -> None:
    field.boolean()


def _object(field: Field, _: bool) -> None:
    field.object()


def _logit_bias(field: Field, strict: bool) -> None:
    for _, bias in field.members():
        number(-100, 100)(bias, strict)


def _metadata(field: Field, strict: bool) -> None:
    if len(field.object()) > _MAX_METADATA and strict:
        raise field.error(f"must have at most {_MAX_METADATA} pairs")
    for key, value in field.members():
        text = value.string()
        if len(key) > _MAX_METADATA_KEY and strict:
            raise value.error(f"must have a key of at most {_MAX_METADATA_KEY} characters")
        if len(text) > _MAX_METADATA_VALUE and strict:
            raise value.error(f"must be at most {_MAX_METADATA_VALUE} characters")


def _stop(field: Field, strict: bool) -> None:
    if isinstance(field.value, str):
        stops = [field]
    else:
        count = len(field.array("a string or an array of strings"))
        if count > _MAX_STOPS and strict:
            raise field.error(f"must have at most {_MAX_STOPS} sequences")
        stops = list(field.items())
    for stop in stops:
        if not stop.string():
            raise stop.error("must not be empty")


def _response_format(field: Field, strict: bool) -> None:
    field.object('an object such as {"type": "json_object"}')
    if field.child("type").word(_FORMATS) != "json_schema":
        return
    schema = field.child("json_schema")
    schema.object('an object such as {"name": …, "schema": {…}}')
    _name(schema.child("name"), strict)
    schema.child("schema").object("a JSON Schema")
    check(schema, strict, strict=_boolean, description=string)


def _stream_options(field: Field, strict: bool) -> None:
    field.object()
    check(field, strict, include_usage=_boolean, include_obfuscation=_boolean)


def _tools(field: Field, strict: bool) -> None:
    for tool in field.items():
        tool.object('an object such as {"type": "function", "function": {"name": …}}')
        kind = tool.child("type").word(_TOOL_TYPES)
        if kind == "function":
            _function(tool.child("function"), strict)
        elif kind == "custom":
            tool.child("custom").object()
            _name(tool.child("custom").child("name"), strict)


def _functions(field: Field, strict: bool) -> None:
    if not 1 <= len(field.array()) <= _MAX_FUNCTIONS and strict:
        raise field.error(f"must have 1 to {_MAX_FUNCTIONS} functions; leave it out where there are none")
    for function in field.items():
        _function(function, strict)


def _function(field: Field, strict: bool) -> None:
    field.object('an object such as {"name": …, "parameters": {…}}')
    _name(field.child("name"), strict)
    check(field, strict, description=string, parameters=_object, strict=_boolean)


def _function_call(field: Field, _: bool) -> None:
    if isinstance(field.value, str):
        field.one_of(("none", "auto"))
    else:
        field.object('none, auto, or an object such as {"name": …}')


def _name(field: Field, strict: bool) -> None:
    name = field.string()
    if not name or (strict and not _NAME.fullmatch(name)):
        raise field.error("must be 1 to 64 of the characters a-z, A-Z, 0-9, _ and -")


#: What a documented parameter must be where it is set, as far as it does not depend on others.
_PARAMETERS: Final[Mapping[str, Rule]] = {
    "audio": _object,
    "frequency_penalty": number(-2, 2),
    "function_call": _function_call,
    "functions": _functions,
    "logit_bias": _logit_bias,
    "logprobs": _boolean,
    "max_completion_tokens": integer(1),
    "max_tokens": integer(1),
    "metadata": _metadata,
    "modalities": strings,
    "parallel_tool_calls": _boolean,
    "prediction": _object,
    "presence_penalty": number(-2, 2),
    "prompt_cache_key": string,
    "reasoning_effort": string,
    "response_format": _response_format,
    "safety_identifier": string,
    "seed": integer(-_INT64, _INT64 - 1),
    "service_tier": string,
    "stop": _stop,
    "store": _boolean,
    "stream": _boolean,
    "stream_options": _stream_options,
    "temperature": number(0, 2),
    "tools": _tools,
    "top_logprobs": integer(0, 20),
    "top_p": number(0, 1),
    "user": string,
    "verbosity": string,
    "web_search_options": _object,
}
