"""What the peer sends is what was recorded: tests/golden/litellm is a foreign wire, not our idea of one."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

RECORDED = Path(__file__).parents[1] / "golden" / "litellm"

ASK = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
STREAM = {"stream": True, "stream_options": {"include_usage": True}}

#: Name of the recording, the request, and the status of the answer.
REQUESTS: dict[str, tuple[dict[str, Any], int]] = {
    "text.sse": ({"model": "text", "messages": ASK, **STREAM}, 200),
    "text.json": ({"model": "text", "messages": ASK}, 200),
    "tools.sse": ({"model": "tools", "messages": ASK, "tools": TOOLS, **STREAM}, 200),
    "tools.json": ({"model": "tools", "messages": ASK, "tools": TOOLS}, 200),
    "cut-off.sse": ({"model": "cut-off", "messages": ASK, **STREAM}, 200),
    "unknown-model.json": ({"model": "no-such-model", "messages": ASK, **STREAM}, 400),
    "rate-limited.json": ({"model": "rate-limited", "messages": ASK, **STREAM}, 429),
    "broken.json": ({"model": "broken", "messages": ASK, **STREAM}, 500),
    "wrong-key.json": ({"model": "text", "messages": ASK}, 400),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_peer_answers_as_recorded(name, peer, pytestconfig):
    request, status = REQUESTS[name]
    key = "sk-wrong-0123456789" if name == "wrong-key.json" else peer.key
    answer, body = post(peer.url, request, key)

    if pytestconfig.getoption("--record", default=False):
        RECORDED.mkdir(exist_ok=True)
        (RECORDED / name).write_bytes(body)
    assert answer.status == status
    assert answer.getheader("content-type").startswith(
        "text/event-stream" if name.endswith(".sse") else "application/json"
    )
    assert body.decode() == (RECORDED / name).read_text(encoding="utf-8")


def post(url: str, request: dict[str, Any], key: str) -> tuple[http.client.HTTPResponse, bytes]:
    """The answer, and its body without what differs from call to call."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(request), headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    body = re.sub(rb"chatcmpl-[0-9a-f-]{36}", b"chatcmpl-00000000-0000-4000-8000-000000000000", body)
    return answer, re.sub(rb'"created":\d+', b'"created":1763777777', body)
