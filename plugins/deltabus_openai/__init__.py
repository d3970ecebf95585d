"""OpenAI and every server that speaks its API."""

from deltabus_openai.provider import OpenAIProvider

__all__ = ["OpenAIProvider"]
