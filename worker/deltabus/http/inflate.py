"""Undoes gzip and deflate in bounded steps: a small answer that inflates to gigabytes never does so in memory."""

from __future__ import annotations

import zlib

from deltabus.provider import ProviderProtocol

#: Bytes that one step may produce.
_STEP = 64 * 1024
#: How a member begins (RFC 1952, section 2.3.1).
_GZIP = b"\x1f\x8b"


class Inflater:
    """Inflates one body. Compression is never asked for; some servers compress all the same.

    Args:
        encoding: the Content-Encoding.

    Raises:
        ProviderProtocol: the encoding is another one.
    """

    __slots__ = ("_input", "_started", "_zlib")

    def __init__(self, encoding: str) -> None:
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise ProviderProtocol(
                f"the provider compressed its answer with `{encoding[:50]}`, which was not asked for"
            )
        # 32: gzip or zlib, whichever the header says (zlib's manual, inflateInit2).
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 32)
        #: Nothing but the header decides; `deflate` may lack one.
        self._started = encoding != "deflate"
        self._input = b""

    def push(self, data: bytes) -> None:
        """Take what was read."""
        self._input += data

    def pull(self) -> bytes:
        """Some more of the inflated body; empty when more input is needed.

        Raises:
            ProviderProtocol: the input is not compressed as the header says.
        """
        # Two bytes tell zlib's header from none.
        while len(self._input) > (not self._started):
            if self._zlib.eof:
                # gzip may have several members; padding, or whatever else follows the last one, is dropped.
                self._input = self._input.lstrip(b"\0")
                if not self._input.startswith(_GZIP[: len(self._input)]):
                    self._input = b""
                if len(self._input) < len(_GZIP):
                    break
                self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 32)
            try:
                out = self._zlib.decompress(self._input, _STEP)
            except zlib.error as exc:
                if self._started:
                    raise ProviderProtocol("the provider's compressed answer is damaged") from exc
                # Deflate without zlib's header, as some servers understand the word.
                self._started = True
                self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
                continue
            self._started = True
            self._input = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
            if out:
                return out
        return b""
