"""A provider that needs no server: deterministic, offline, scripted by the request.

    {"messages": [{"role": "user", "content": "hello bus"}], "stream": true}        says it back
    {"messages": […], "echo": {"words": 200, "interval": 0.02, "fail_after": 50, "error": "rate_limited"}}

`deltabus_echo.script.Script` lists what a script may hold. The same request gives the same bytes.
"""

from deltabus_echo.provider import EchoProvider

__all__ = ["EchoProvider"]
