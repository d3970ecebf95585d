"""Compressed bodies are inflated in bounded steps."""

from __future__ import annotations

import gzip
import zlib

import pytest

from deltabus.http.inflate import Inflater
from deltabus.provider import ProviderProtocol

TEXT = b"all work and no play " * 500


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def inflate(encoding: str, packed: bytes, size: int) -> bytes:
    inflater = Inflater(encoding)
    out = b""
    for place in range(0, len(packed), size):
        inflater.push(packed[place : place + size])
        while piece := inflater.pull():
            out += piece
    return out


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT)),
        ("gzip", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
        ("gzip", gzip.compress(TEXT) + b"\0\0\0\0"),
        ("gzip", gzip.compress(TEXT) + b"what follows the last member"),
        ("deflate", zlib.compress(TEXT)),
    ],
    # gzip writes down the time: bytes in a test's name would give it another one in each process.
    ids=["gzip", "x-gzip", "two members", "padding", "rubbish", "deflate"],
)
def test_what_servers_call_gzip_and_deflate_is_undone(encoding: str, packed: bytes, size: int) -> None:
    assert inflate(encoding, packed, size) == TEXT


def test_deflate_without_its_header_is_undone() -> None:
    assert inflate("deflate", raw_deflate(TEXT), 100_000) == TEXT
    assert inflate("deflate", raw_deflate(TEXT), 1) == TEXT


def test_a_bomb_goes_off_in_small_steps() -> None:
    inflater = Inflater("gzip")
    inflater.push(gzip.compress(bytes(50_000_000)))
    total = 0
    while piece := inflater.pull():
        assert len(piece) <= 64 * 1024
        total += len(piece)
    assert total == 50_000_000


def test_damage_is_an_error_and_no_exception_of_zlib() -> None:
    packed = bytearray(gzip.compress(bytes(range(256)) * 50))
    packed[200:210] = b"\xff" * 10
    with pytest.raises(ProviderProtocol, match="damaged"):
        inflate("gzip", bytes(packed), 50)
    with pytest.raises(ProviderProtocol, match="damaged"):
        inflate("gzip", b"this is no gzip at all", 50)


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip"])
def test_what_nobody_asked_for_is_an_error(encoding: str) -> None:
    with pytest.raises(ProviderProtocol, match="not asked for"):
        Inflater(encoding)
