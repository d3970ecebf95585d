"""Google's Gemini, by its own API."""

from deltabus_gemini.provider import GeminiProvider

__all__ = ["GeminiProvider"]
