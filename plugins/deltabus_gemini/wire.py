"""OpenAI's words for Gemini's, and back: a chat request for `generateContent`, an answer as chunks. Pure.

https://ai.google.dev/api/generate-content and https://ai.google.dev/gemini-api/docs/thought-signatures

What OpenAI's API does not know is forwarded as it is (`safetySettings`, `cachedContent`; what is in
`generationConfig` wins). A tool such as `{"type": "google_search", "googleSearch": {}}` goes without its type.
Signatures of thoughts come as `extra_content.google.thought_signature`, where Google's own OpenAI-compatible
API has them, other parts (code that was run) as `extra_content.google.parts`; both go back with the message.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from deltabus.http import DocumentDecoder, shapes
from deltabus.http.dataurl import DataURL
from deltabus.provider import Chunk, InvalidRequest, ProviderProtocol, Unsupported

#: Parameters without which an answer would not be what was asked for. Of what else Gemini has nothing like,
#: such as `logit_bias`, nothing is sent.
_REFUSED: Final[Mapping[str, str]] = {
    "functions": "use `tools`",
    "function_call": "use `tool_choice`",
    "audio": "set `generationConfig.speechConfig`, and `modalities`",
}

#: Parameters that have but another name.
_SAMPLING: Final = {"temperature": "temperature", "top_p": "topP", "top_k": "topK", "seed": "seed"}
_PENALTIES: Final = {"presence_penalty": "presencePenalty", "frequency_penalty": "frequencyPenalty"}
_LIMITS: Final = {"max_tokens": "maxOutputTokens", "max_completion_tokens": "maxOutputTokens", "n": "candidateCount"}
_RENAMED: Final = {**_SAMPLING, **_PENALTIES, **_LIMITS}

#: What Google's OpenAI-compatible API makes of `reasoning_effort` for models that count tokens of thought;
#: https://ai.google.dev/gemini-api/docs/openai. Newer ones have levels.
_BUDGETS: Final = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
_LEVELS: Final = {"none": "minimal", "xhigh": "high", "max": "high"}
_BUDGETED: Final = re.compile(r"(.*/)?gemini-[12]")

_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "tool": "user", "assistant": "model"}
_MODES: Final = {"none": "NONE", "auto": "AUTO", "required": "ANY"}

_FINISH_REASONS: Final = {"STOP": "stop", "MAX_TOKENS": "length", "OTHER": "length"}
_FILTERED: Final = re.compile("(IMAGE_)?(SAFETY|RECITATION|PROHIBITED_CONTENT)|LANGUAGE|BLOCKLIST|SPII")
#: Ends of an answer that is none: another attempt may fare better.
_FAILED: Final = re.compile("MALFORMED_|UNEXPECTED_TOOL_CALL|TOO_MANY_TOOL_CALLS|NO_IMAGE|IMAGE_OTHER")

#: Ids that are made here, for calls that have none, begin with it; Gemini does not know them.
_MADE: Final = "gemini-call-"


def path(model: str) -> str:
    """`models/gemini-…`; a name with a slash in it stands as it is (`tunedModels/…`)."""
    return model if "/" in model else f"models/{model}"


def request(body: Mapping[str, Any]) -> dict[str, Any]:
    """A chat request as Gemini's.

    Raises:
        InvalidRequest, Unsupported: it has no such form; `param` names the field.
    """
    shapes.refuse(body, _REFUSED)
    out = shapes.native(body)
    calls = [call for message in body["messages"] for call in message.get("tool_calls") or ()]
    names = {call["id"]: call["function"]["name"] for call in calls if "function" in call}
    system, out["contents"] = shapes.turns(body["messages"], _ROLES, "parts", partial(_said, names))
    if system:
        out["systemInstruction"] = {"parts": system}
    config = {theirs: body[ours] for ours, theirs in _RENAMED.items() if body.get(ours) is not None}
    out.pop("top_k", None)
    if stop := body.get("stop"):
        config["stopSequences"] = [stop] if isinstance(stop, str) else stop
    if modalities := body.get("modalities"):
        config["responseModalities"] = [each.upper() for each in modalities]
    wanted = body.get("response_format") or {}
    if wanted.get("type") in ("json_object", "json_schema"):
        config["responseMimeType"] = "application/json"
        if schema := (wanted.get("json_schema") or {}).get("schema"):
            config["responseJsonSchema"] = schema
    if effort := body.get("reasoning_effort"):
        config["thinkingConfig"] = _thinking(body["model"], effort)
    if config := {**config, **out.get("generationConfig", {})}:
        out["generationConfig"] = config
    _tools(out, body)
    return out


def _thinking(model: str, effort: str) -> dict[str, Any]:
    shown = {"includeThoughts": effort != "none"}
    if _BUDGETED.match(model):
        return {"thinkingBudget": _BUDGETS.get(effort, _BUDGETS["high"]), **shown}
    return {"thinkingLevel": _LEVELS.get(effort, effort), **shown}


def _tools(out: dict[str, Any], body: Mapping[str, Any]) -> None:
    functions = [tool["function"] for tool in body.get("tools") or () if tool["type"] == "function"]
    tools = [{key: each for key, each in tool.items() if key != "type"} for tool in body.get("tools") or ()]
    tools = [tool for tool in tools if "function" not in tool]
    if functions:
        tools.append({"functionDeclarations": [_declaration(function) for function in functions]})
    if body.get("web_search_options") is not None:
        tools.append({"googleSearch": {}})
    if tools:
        out["tools"] = tools
    choice = body.get("tool_choice") if functions else None
    if isinstance(choice, str):
        out["toolConfig"] = {"functionCallingConfig": {"mode": _MODES.get(choice, "AUTO")}}
    elif choice:
        allowed = choice.get("allowed_tools") or {"mode": "required", "tools": [choice]}
        names = [each["function"]["name"] for each in allowed["tools"]]
        mode = "ANY" if allowed["mode"] == "required" else "VALIDATED"
        out["toolConfig"] = {"functionCallingConfig": {"mode": mode, "allowedFunctionNames": names}}


def _declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema as it is: `parameters` would be Google's own kind of it, which refuses much of OpenAI's."""
    names = {"name": "name", "description": "description", "parameters": "parametersJsonSchema"}
    return {theirs: function[ours] for ours, theirs in names.items() if function.get(ours)}


def _said(names: Mapping[str, str], message: dict[str, Any], where: str) -> list[dict[str, Any]]:
    parts = _parts(message.get("content"), where)
    google = (message.get("extra_content") or {}).get("google") or {}
    if message["role"] == "tool":
        return [_answer(message["tool_call_id"], names, parts, where)]
    if message["role"] == "assistant":
        if signature := google.get("thought_signature"):
            parts = [*parts[:-1], {**(parts[-1] if parts else {"text": ""}), "thoughtSignature": signature}]
        calls = enumerate(message.get("tool_calls") or ())
        parts += [_call(call, f"{where}.tool_calls[{place}]") for place, call in calls]
    return [*google.get("parts", ()), *parts]


def _call(call: dict[str, Any], where: str) -> dict[str, Any]:
    name, arguments = shapes.function(call, where)
    part: dict[str, Any] = {"functionCall": {**_known(call["id"]), "name": name, "args": arguments}}
    signature = ((call.get("extra_content") or {}).get("google") or {}).get("thought_signature")
    return {**part, "thoughtSignature": signature} if signature else part


def _answer(call: str, names: Mapping[str, str], parts: list[dict[str, Any]], where: str) -> dict[str, Any]:
    """Gemini wants the function's name, and an object: what is none is its `output`. Pictures stand beside it."""
    if call not in names:
        raise InvalidRequest("answers no tool call of the messages", param=f"{where}.tool_call_id")
    text = "".join(part.get("text", "") for part in parts)
    try:
        response = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        response = {"output": text}
    other = [part for part in parts if "text" not in part]
    beside = {"parts": other} if other else {}
    return {"functionResponse": {**_known(call), "name": names[call], "response": response, **beside}}


def _known(call: str) -> dict[str, str]:
    return {} if call.startswith(_MADE) else {"id": call}


def _parts(content: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"text": content}] if content else []
    return [_part(part, f"{where}.content[{place}]") for place, part in enumerate(content or ())]


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    match part.get("type"):
        case "text":
            return {"text": part["text"]}
        case "image_url":
            return _data(part["image_url"]["url"], f"{where}.image_url.url")
        case "input_audio":
            audio = part["input_audio"]
            return {"inlineData": {"mimeType": f"audio/{audio['format']}", "data": audio["data"]}}
        case "file" if data := part["file"].get("file_data"):
            return _data(data, f"{where}.file.file_data")
        case "file":
            raise Unsupported("send `file_data`, a data URL or the file's URI at Google", param=f"{where}.file")
        case "refusal":
            return {"text": part["refusal"]}
    return {key: value for key, value in part.items() if key != "type"}


def _data(url: str, where: str) -> dict[str, Any]:
    if data := DataURL.parse(url, param=where):
        return {"inlineData": {"mimeType": data.media_type, "data": data.base64}}
    kind = mimetypes.guess_type(url.partition("?")[0])[0]
    return {"fileData": {"fileUri": url, **({"mimeType": kind} if kind else {})}}


class _Content(msgspec.Struct):
    parts: list[dict[str, Any]] = []


class _Candidate(msgspec.Struct, rename="camel"):
    index: int = 0
    content: _Content = msgspec.field(default_factory=_Content)
    finish_reason: str | None = None
    finish_message: str | None = None
    grounding_metadata: dict[str, Any] | None = None


class Document(msgspec.Struct, rename="camel"):
    """A `GenerateContentResponse`: a whole answer, or what is new of one."""

    candidates: list[_Candidate] = []
    prompt_feedback: dict[str, Any] = {}
    usage_metadata: dict[str, Any] = {}
    model_version: str = ""
    response_id: str = ""


class AnswerDecoder(DocumentDecoder[Document]):
    """Decodes one answer. Its body's end ends it, and no finishReason: a model may say one in every piece."""

    def __init__(self, limit: int, candidates: Any) -> None:
        super().__init__(Document, limit)
        self._candidates = candidates if type(candidates) is int else 1
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        #: Candidate -> its finishReason, and how many calls of functions it has.
        self._reasons: dict[int, str] = {}
        self._calls: dict[int, int] = {}

    def event(self, document: Document) -> Iterator[Chunk]:
        if not self._head:
            self._head = shapes.head(document.response_id, document.model_version)
        self._usage = document.usage_metadata or self._usage
        if reason := document.prompt_feedback.get("blockReason"):
            said = document.prompt_feedback.get("blockReasonMessage", "")
            raise InvalidRequest(f"Gemini blocked the prompt ({reason}) {said}".strip(), param="request.messages")
        for candidate in document.candidates:
            index, reason = candidate.index, candidate.finish_reason
            if reason and _FAILED.match(reason):
                raise ProviderProtocol(f"Gemini gave no answer ({reason}) {candidate.finish_message or ''}".strip())
            delta = self._delta(index, candidate.content.parts)
            if candidate.grounding_metadata:
                _extra(delta)["grounding_metadata"] = candidate.grounding_metadata
            if index not in self._calls:
                self._calls[index] = 0
                delta = {"role": "assistant", **delta}
            self._calls[index] += len(delta.get("tool_calls", ()))
            if delta:
                yield shapes.chunk(self._head, delta, index=index)
            if reason and reason != "FINISH_REASON_UNSPECIFIED":
                self._reasons[index] = reason
        self.settled = len(self._reasons) >= max(self._candidates, len(self._calls))

    def last(self) -> Iterator[Chunk]:
        choices = []
        for index, reason in sorted(self._reasons.items()):
            finish = "content_filter" if _FILTERED.match(reason) else _FINISH_REASONS.get(reason, "stop")
            finish = "tool_calls" if finish == "stop" and self._calls[index] else finish
            choices.append({"index": index, "delta": {}, "finish_reason": finish, "native_finish_reason": reason})
        yield Chunk.of({**self._head, "choices": choices, "usage": _usage(self._usage)})

    def _delta(self, index: int, parts: list[dict[str, Any]]) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        for part in parts:
            signature = part.get("thoughtSignature")
            if "functionCall" in part:
                call = part["functionCall"]
                number = self._calls.get(index, 0) + len(delta.get("tool_calls", ()))
                made = call.get("id") or f"{_MADE}{self._head['id']}-{index}-{number}"
                piece = shapes.tool_call(number, call.get("args") or {}, id=made, name=call["name"])
                delta.setdefault("tool_calls", []).append(piece)
                if signature:
                    _extra(piece)["thought_signature"] = signature
                continue
            if "text" in part:
                key = "reasoning_content" if part.get("thought") else "content"
                delta[key] = delta.get(key, "") + part["text"]
            elif str(part.get("inlineData", {}).get("mimeType")).startswith("image/"):
                data = part["inlineData"]
                url = {"url": f"data:{data['mimeType']};base64,{data['data']}"}
                delta.setdefault("images", []).append({"type": "image_url", "image_url": url})
            else:
                _extra(delta).setdefault("parts", []).append(part)
                continue
            if signature:
                _extra(delta)["thought_signature"] = signature
        return delta


def _extra(of: dict[str, Any]) -> dict[str, Any]:
    extra: dict[str, Any] = of.setdefault("extra_content", {}).setdefault("google", {})
    return extra


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    thought = usage.get("thoughtsTokenCount") or 0
    return shapes.usage(
        (usage.get("promptTokenCount") or 0) + (usage.get("toolUsePromptTokenCount") or 0),
        (usage.get("candidatesTokenCount") or 0) + thought,
        cached=usage.get("cachedContentTokenCount") or 0,
        reasoning=thought,
    )


def embedding_requests(body: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's request for embeddings as Gemini's: https://ai.google.dev/api/embeddings."""
    common = {key: body[key] for key in ("taskType", "title") if key in body}
    if body.get("dimensions"):
        common["outputDimensionality"] = body["dimensions"]
    common["model"] = path(body["model"])
    return {"requests": [{**common, "content": {"parts": [{"text": text}]}} for text in shapes.texts(body)]}


def embeddings(body: Mapping[str, Any], answer: Any) -> dict[str, Any]:
    """Gemini's embeddings as OpenAI's."""
    found = answer.get("embeddings") if isinstance(answer, dict) else None
    texts = found if isinstance(found, list) else [None]
    return shapes.embeddings([each.get("values") if isinstance(each, dict) else None for each in texts], body)


def models(listed: Any) -> list[dict[str, Any]] | None:
    """The models in a list of them as OpenAI's objects; None if that is not what it is."""
    return shapes.models(listed, "models", "google", id=lambda model: str(model.get("name")).removeprefix("models/"))
