"""Fields of a delta whose meaning is not known, put together as increments.

A store is a dict of our own, in which text that is still growing is a bytearray of UTF-8. `merge`
adds to it, `plain` is what it holds as JSON values.
"""

from __future__ import annotations

from typing import Any, Final

#: Strings that say what something is; servers repeat them, and the last one counts. A signature
#: comes whole, and half of one is worth nothing.
_LABELS: Final = frozenset(
    {
        "channel",
        "encrypted_content",
        "format",
        "id",
        "mime_type",
        "model",
        "name",
        "object",
        "provider",
        "role",
        "signature",
        "status",
        "thought_signature",
        "type",
    }
)

#: Objects nested deeper than this many levels are kept as they come, not merged: no answer is known
#: to need it, and recursion stays bounded.
_DEPTH: Final = 16

#: OpenRouter's list of reasoning blocks: their text comes in many pieces, of which those that follow
#: each other are one block if they agree on type, index and id. (The index alone does not say so:
#: OpenRouterTeam/ai-sdk-provider#519.)
_BLOCKS: Final = "reasoning_details"
_BLOCK_TYPES: Final = ("reasoning.text", "reasoning.summary")

Store = dict[str, Any]


def encode(text: str) -> bytes:
    """Text as the buffers hold it. Half a surrogate pair, which is no text, becomes a question mark."""
    return text.encode("utf-8", "replace")


def merge(store: Store, key: str, value: Any, depth: int = 0) -> None:
    """Add one increment to the store. `value` is not changed."""
    old = store.get(key)
    if isinstance(value, str):
        if key in _LABELS:
            store[key] = value or old or value
        elif isinstance(old, bytearray):
            old += encode(value)
        elif isinstance(old, str):
            store[key] = bytearray(encode(old + value))
        else:
            store[key] = value
    elif isinstance(value, dict):
        if depth >= _DEPTH:
            store[key] = value
            return
        if not isinstance(old, dict):
            old = store[key] = {}
        for name, member in value.items():
            merge(old, name, member, depth + 1)
    elif isinstance(value, list):
        if not isinstance(old, list):
            old = store[key] = []
        if key == _BLOCKS and depth < _DEPTH:
            _add_blocks(old, value, depth + 1)
        else:
            old.extend(value)
    elif value is not None or old is None:
        store[key] = value


def plain(store: Store, depth: int = 0) -> dict[str, Any]:
    """What the store holds, as JSON values. Items of lists are shared with the chunks they came from."""
    return {key: _plain(key, value, depth) for key, value in store.items()}


def _plain(key: str, value: Any, depth: int) -> Any:
    if isinstance(value, bytearray):
        return value.decode()
    if depth < _DEPTH:
        if isinstance(value, dict):
            return plain(value, depth + 1)
        if isinstance(value, list) and key == _BLOCKS:
            return [plain(item, depth + 1) if isinstance(item, dict) else item for item in value]
    return list(value) if isinstance(value, list) else value


def _add_blocks(blocks: list[Any], items: list[Any], depth: int) -> None:
    for item in items:
        if not isinstance(item, dict):
            blocks.append(item)
            continue
        if not (blocks and _continues(item, blocks[-1])):
            blocks.append({})
        for name, member in item.items():
            merge(blocks[-1], name, member, depth)


def _continues(item: dict[str, Any], block: Any) -> bool:
    if not isinstance(block, dict) or item.get("type") not in _BLOCK_TYPES:
        return False
    if item["type"] != block.get("type") or item.get("index") != block.get("index"):
        return False
    return not item.get("id") or not block.get("id") or item["id"] == block["id"]
