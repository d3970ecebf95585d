"""Anthropic, and every server that speaks its Messages API."""

from deltabus_anthropic.provider import AnthropicProvider

__all__ = ["AnthropicProvider"]
