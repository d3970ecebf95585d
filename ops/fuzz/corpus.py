"""Good examples of every kind: what is recorded under `tests/`, and what the protocol's document shows."""

# Examples are easier to read in a line each.
# ruff: noqa: E501

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from deltabus import keys

#: Where recorded answers and golden events are.
_TESTS: Final = Path(__file__).parents[2] / "tests"

_PICTURE: Final = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "d",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
_CALL: Final = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"at":"Riga"}'}}

#: Bodies of chat requests, from the plainest to those that use everything.
CHATS: Final[Sequence[dict[str, Any]]] = (
    {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "stream": True},
    {"messages": [{"role": "user", "content": "hi"}], "model": "gpt-4o-mini", "temperature": 0.2, "max_tokens": 5, "stop": ["x"]},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": _PICTURE}}]},
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "12 °C"},
            {"role": "user", "content": "and?"},
        ],
        "tools": [_TOOL],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "stream": True,
        "stream_options": {"include_usage": True},
        "metadata": {"k": "v"},
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "input_audio", "input_audio": {"data": "aGVsbG8=", "format": "wav"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
                    {"type": "input_text", "text": "t"},
                ],
            }
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}},
        "logprobs": True,
        "top_logprobs": 3,
        "logit_bias": {"50256": -100},
        "n": 2,
        "seed": 7,
        "reasoning_effort": "low",
    },
    {"messages": [{"role": "user", "content": "x"}], "echo": {"text": "one two three", "chunk_words": 2, "reasoning": "hm"}, "stream": True},
    {"messages": [{"role": "user", "content": "x"}], "echo": {"words": 5, "error": "rate_limited", "error_after": 2}, "stream": True},
    {"messages": [{"role": "user", "content": "x"}], "functions": [{"name": "f", "parameters": {}}], "function_call": {"name": "f"}},
)  # fmt: skip

#: Functions, and requests that they take. None names an address: a run asks nobody in any network.
CALLS: Final[Sequence[tuple[str, dict[str, Any]]]] = (
    *(("deltabus.tasks.chat", body) for body in CHATS),
    ("deltabus.tasks.file", {"operation": "upload", "source": {"base64": "aGVsbG8="}, "filename": "a.txt", "purpose": "user_data"}),
    ("deltabus.tasks.file", {"operation": "upload", "source": {"blob": "b1"}, "expires_after": {"anchor": "created_at", "seconds": 3600}}),
    ("deltabus.tasks.file", {"operation": "list", "limit": 10, "order": "desc", "purpose": "batch"}),
    ("deltabus.tasks.file", {"operation": "content", "file_id": "file-1", "to": {"blob": True}}),
    ("deltabus.tasks.file", {"operation": "delete", "file_id": "file-1"}),
    ("deltabus.tasks.embeddings", {"input": ["a", "b"], "model": "m", "dimensions": 8, "encoding_format": "float"}),
    ("deltabus.tasks.images", {"prompt": "a cat", "n": 1, "size": "1024x1024"}),
    ("deltabus.tasks.models", {}),
    ("deltabus.tasks.speech", {"input": "hello", "voice": "alloy", "response_format": "mp3"}),
    ("deltabus.tasks.transcription", {"source": {"base64": "UklGRg=="}, "filename": "a.wav", "language": "en"}),
)  # fmt: skip

#: What an envelope may have besides its request.
OPTIONS: Final[Sequence[dict[str, Any]]] = (
    {},
    {"v": 1},
    {"provider": "echo", "tenant": "acme", "metadata": {"ticket": "42"}, "headers": {"X-Team": "search"}},
    {"deadline": 4102444800.0, "timeout": 5.0, "retry": {"max": 0, "after_delta": "fail"}, "reply_to": "svc-a:replies"},
    {"trace": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
    {
        "attachments": [
            {"source": {"base64": "aGVsbG8="}, "as": "file", "filename": "a.txt", "media_type": "text/plain"}
        ]
    },
    {"attachments": [{"source": {"blob": "b1"}, "as": "image", "detail": "low"}]},
)

#: Fields of a job's hash, as RQ writes them.
HASH: Final[Mapping[str, str]] = {
    "created_at": "2026-01-31T12:00:00.123456Z", "enqueued_at": "2026-01-31T12:00:00.123456Z", "origin": "chat", "status": "queued",
    "description": "deltabus.tasks.chat", "started_at": "", "ended_at": "", "last_heartbeat": "", "worker_name": "", "group_id": "",
    "success_callback_name": "", "failure_callback_name": "", "stopped_callback_name": "", "timeout": "5", "result_ttl": "600",
    "failure_ttl": "600",
}  # fmt: skip

#: Fields that a job's hash may have besides.
HASH_OPTIONS: Final[Mapping[str, str]] = {
    "ttl": "600", "meta": "{}", "dependency_ids": "[]", "dependency_id": "", "allow_dependency_failures": "0", "enqueue_at_front": "1",
    "retries_left": "0", "number_of_retries": "0", "retry_intervals": "[1]", "enqueue_at_front_on_retry": "0", "repeats_left": "1",
    "repeat_intervals": "[0]", "success_callback_timeout": "60", "failure_callback_timeout": "60", "stopped_callback_timeout": "60",
    "rate_limit_key": "k", "rate_limit_concurrency": "5", "exc_info": "", "result": "", "worker_name": "w", "webhooks": "[]",
    "deltabus_lost": "0", "deltabus_failures": "0", "deltabus_open": "e", "deltabus_failure": '{"error":{"code":"internal","message":"m"},"execution":"e"}',
    "webhooks_json": '[{"url":"http://127.0.0.1/","status":"finished"}]',
}  # fmt: skip

#: What RQ and deltabus send to workers.
COMMANDS: Final[Sequence[dict[str, Any]]] = (
    {"command": "stop-job", "job_id": "j"},
    {"command": "stop-execution", "job_id": "j", "execution_id": "e"},
    {"command": "kill-horse"},
    {"command": "shutdown-all"},
)

#: Documents that providers answer with besides a chat's.
DOCUMENTS: Final[Mapping[str, Sequence[Any]]] = {
    "file": (
        {"id": "file-1", "object": "file", "bytes": 5, "created_at": 1763777777, "filename": "a", "purpose": "batch"},
        {"ID": "f", "CreatedAt": "2026-01-31T12:00:00.123456789Z", "Bytes": "12", "ExpiresAt": None},
    ),
    "list": (
        {"object": "list", "data": [{"id": "file-1", "created_at": 5}, {"id": "file-2", "created_at": "7"}], "has_more": False},
        {"Data": [{"ID": "x"}], "FirstID": "x"},
        [{"id": "a"}],
    ),
    "deletion": ({"id": "file-1", "object": "file", "deleted": True}, {"Id": "f", "Deleted": True}),
    "models": ({"object": "list", "data": [{"id": "m"}]}, {"models": [{"name": "m"}]}, {"models": [{"name": "models/g", "displayName": "G"}]}),
    "embeddings": (
        {"object": "list", "data": [{"index": 1, "embedding": [0.1]}, {"index": 0, "embedding": [0.2]}], "usage": {"prompt_tokens": 2}},
        {"embeddings": [{"values": [0.1, 0.2]}, {"values": [1, 2]}]},
    ),
    "pictures": ({"created": 1, "data": [{"b64_json": "aGk="}, {"url": "x"}]},),
    "transcription": ({"text": "hello", "duration": 1.5}, "hello"),
    "error": (
        {"error": {"message": "slow down", "type": "rate_limit_error", "param": "messages[0]", "code": "rate_limit_exceeded"}},
        [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "m", "details": [{"retryDelay": "27s", "reason": "R"}]}}],
        {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]},
        {"error": {"code": 502, "message": "Provider returned error", "metadata": {"raw": "text", "provider_name": "p"}}},
        {"object": "error", "message": "m", "code": 400},
        {"errors": [{"message": "m"}]},
    ),
}  # fmt: skip

#: Headers of an error.
HEADERS: Final[Mapping[str, str]] = {
    "retry-after": "5", "retry-after-ms": "250", "x-request-id": "r", "content-type": "application/json", "location": "https://u:p@h/x?y",
    "x-should-retry": "true", "anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:00Z",
    "content-disposition": "attachment; filename=\"a.txt\"; filename*=UTF-8''na%C3%AFve.txt",
}  # fmt: skip

#: Configurations that load.
CONFIGS: Final[Sequence[bytes]] = (
    b"""\
concurrency = 500
queues = ["chat", "file"]
result_ttl = -1
log_level = "info"
drain_timeout = 0.5
file_roots = ["/srv/files"]
storage_roots = ["s3://bucket/folder"]
redis_url = "redis://user:password@localhost:6379/0"

[providers.acme-eu]
plugin = "openai"
base_url = "https://eu.acme.example/v1"
models = ["acme-*"]
api_key = "${FUZZ_KEY}"
headers = {X-Team = "search"}
timeouts = {connect = 5, total = "60"}
params = {temperature = 0.5}
capabilities = {max_n = 1, files = true}
""",
    b"""\
redis_url = "redis+sentinel://h1:26379,h2/service/0?sentinel_password=p"
heartbeat_interval = 1
lease = 4.5
[providers.claude]
plugin = "anthropic"
api_key = {env = "FUZZ_KEY"}
[providers.gemini]
api_key = {file = "/nowhere/key"}
query = {v = 1}
[providers.echo]
""",
    b"""\
redis_url = {env = "FUZZ_URL"}
redis_password = "$${not}"
metrics_port = 9464
metrics_tenants = ["a", "b"]
[providers]
x = {plugin = "openai", base_url = "http://localhost:8080", verify = false, proxy = "", max_answer_bytes = 2048, auth_header = "api-key"}
""",
)

#: Variables that configure.
VARIABLES: Final[Mapping[str, str]] = {
    "DELTABUS_CONCURRENCY": "50", "DELTABUS_QUEUES": "chat,file", "DELTABUS_LEASE": "10", "DELTABUS_HEARTBEAT_INTERVAL": "2.5",
    "DELTABUS_REDIS_URL": "redis://localhost:6379/0", "DELTABUS_REDIS_PASSWORD": "p", "REDIS_URL": "rediss://h:1/2?ssl_cert_reqs=none",
    "RQ_KEY_PREFIX": "rq", "DELTABUS_LOG_LEVEL": "DEBUG", "DELTABUS_METRICS_PORT": "9464", "DELTABUS_RESULT_TTL": "-1",
    "DELTABUS_ID_PREFIX": "acme-", "DELTABUS_STORAGE_ROOTS": "s3://b", "DELTABUS_FILE_ROOTS": "/srv", "OPENAI_API_KEY": "sk-1234567890",
    "OPENAI_BASE_URL": "http://localhost:1/v1", "ANTHROPIC_API_KEY": "k", "GEMINI_API_KEY": "k", "OPENAI_API_KEY_FILE": "/nowhere",
    "DELTABUS_REDIS_URL_FILE": "/nowhere", "OPENAI_ORG_ID": "o", "DELTABUS_MAX_RETRIES": "0", "DELTABUS_SERVICE_HOST": "10.0.0.1",
    "DELTABUS_URL_HOSTS": "files.internal:8080", "GOOGLE_GEMINI_BASE_URL": "https://g", "HTTPS_PROXY": "http://p:3128", "NO_PROXY": "*",
}  # fmt: skip

#: Where events of a good log stand.
FIRST: Final = "1-0"


@cache
def events() -> Sequence[dict[str, Any]]:
    """One event of each type, with whatever it may have."""
    lines = (_TESTS / "golden" / "events.jsonl").read_text(encoding="utf-8").split("\n")
    return tuple(json.loads(line) for line in lines if line.strip())


@cache
def answers(plugin: str) -> Sequence[bytes]:
    """Bodies that the endpoints of a plugin have answered a chat with, streamed and whole."""
    folders = {
        "openai": _TESTS / "golden" / "litellm",
        "anthropic": _TESTS / "plugins" / "anthropic" / "recorded",
        "gemini": _TESTS / "plugins" / "gemini" / "recorded",
    }
    found = [path.read_bytes() for path in sorted(folders[plugin].iterdir())]
    return tuple(found + _MORE if plugin == "openai" else found)


_CHUNK: Final = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def _streamed(*choices: Any, **more: Any) -> bytes:
    docs = [{**_CHUNK, "choices": [choice]} for choice in choices]
    docs.append(
        {**_CHUNK, "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, **more}
    )
    return b"".join(b"data: %b\n\n" % json.dumps(doc).encode() for doc in docs) + b"data: [DONE]\n\n"


#: Dialects of OpenAI's API: see `tests/plugins/openai/test_dialects.py`.
_MORE: Final = [
    _streamed(
        {"index": 0, "delta": {"role": "assistant", "content": "Hel"}, "finish_reason": None},
        {"index": 0, "delta": {"content": "lo", "reasoning_content": "hm"}, "finish_reason": None, "logprobs": {"content": []}},
        {"index": 1, "delta": {"content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "y"}]}},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ),
    _streamed(
        {"index": 0, "delta": {"tool_calls": [{"index": 0, **_CALL}]}},
        {"delta": {"tool_calls": [{"id": "call_2", "function": {"name": "w", "arguments": {"a": 1}}}]}},
        {"index": 0, "delta": {"function_call": {"name": "f", "arguments": "{}"}}, "finish_reason": "eos"},
        x_groq={"usage": {"total_tokens": 3}},
    ),
    b': OPENROUTER PROCESSING\r\n\r\ndata:{"choices":[{"delta":{"content":"x"},"finish_reason":"error","error":{"code":502,"message":"m"}}]}\r\n\r\n',
    b'error: {"code":500,"message":"m"}\n\ndata: [DONE]\n\n',
    b'\xef\xbb\xbfdata: {"choices":[{"index":0,"delta":{"content":"\xe2\x80\xa8"},"finish_reason":"stop"}]}\ndata:\n\n',
]  # fmt: skip


def is_command(message: bytes, command: str) -> bool:
    """Whether a message, good JSON or not, is that command."""
    try:
        said = json.loads(message)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("command") == command


def log_key(task: str) -> str:
    """A task's log."""
    return keys.log(task)
