"""Spans as a tree, a line each: name, how long it took, and what its attributes say of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tracetree.receiver import Span


def render(spans: Sequence[Span]) -> str:
    """The traces among these spans, one below the other."""
    known = {span.id for span in spans}
    lines: list[tuple[str, str]] = []
    traces = []
    for root in (span for span in spans if span.parent not in known):
        if root.trace not in traces:
            traces.append(root.trace)
            lines.append((f"trace {root.trace}", ""))
        lines += _lines(root, spans, "", "")
    width = max((len(head) for head, _ in lines), default=0)
    return "\n".join(f"{head:{width}}  {said}".rstrip() for head, said in lines)


def _lines(span: Span, spans: Sequence[Span], first: str, rest: str) -> Iterator[tuple[str, str]]:
    yield f"{first}{span.name}", _said(span)
    children = [child for child in spans if child.parent == span.id]
    for child in children:
        last = child is children[-1]
        yield from _lines(child, spans, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


def _said(span: Span) -> str:
    found = span.attributes
    words = [f"{(span.end - span.start) / 1e6:7.1f} ms", f"{span.kind:8}"]
    if span.kind in ("producer", "consumer"):
        words.append(span.service)
    if "deltabus.attempt" in found:
        words.append(f"attempt {found['deltabus.attempt']}: {found.get('deltabus.ending')}")
    if "gen_ai.provider.name" in found:
        words.append(f"{found['gen_ai.provider.name']} at {found.get('server.address')}:{found.get('server.port')}")
    if "http.response.status_code" in found:
        words.append(f"HTTP {found['http.response.status_code']}")
    if "error.type" in found:
        words.append(f"! {found['error.type']}")
    if "gen_ai.usage.input_tokens" in found:
        words.append(f"{found['gen_ai.usage.input_tokens']} + {found['gen_ai.usage.output_tokens']} tokens")
    if reasons := found.get("gen_ai.response.finish_reasons"):
        words.append(", ".join(reasons))
    return "  ".join(words)
