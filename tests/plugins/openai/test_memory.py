"""Memory stays flat, whatever a file's size: measured in a process of its own, whose server is this one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deltabus.testing import ApiServer, Sample

#: Bytes of the file, and the most by which the process may grow.
SIZE = 64 * 1024 * 1024
GROWTH = 16 * 1024 * 1024

PROGRAM = """
import asyncio, resource, sys
from deltabus.provider import FileRequest, UploadRequest
from deltabus.testing import Sample
from deltabus_openai import OpenAIProvider

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

async def run(made, size):
    file = await made.upload(UploadRequest(body={"purpose": "user_data"}, content=Sample(size)))
    download = await made.content(FileRequest(file_id=file["id"]))
    got = 0
    async for piece in download:
        got += len(piece)
    await download.aclose()
    assert got == size, got

async def main(url, most, size):
    made = OpenAIProvider("kit", {"base_url": url, "max_upload_bytes": int(most)})
    await run(made, 4 * 1024 * 1024)
    before = peak()
    await run(made, int(size))
    print(peak() - before)
    await made.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("most", [SIZE, 8 * 1024 * 1024], ids=["at once", "in parts"])
def test_a_large_file_goes_and_comes_in_little_memory(most: int) -> None:
    with ApiServer(max_part_bytes=SIZE) as server:
        command = [sys.executable, "-c", PROGRAM, server.url, str(most), str(SIZE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        assert server.files[-1].sha256 == Sample(SIZE).sha256
        assert int(done.stdout) < GROWTH, f"grew by {int(done.stdout) / 1024 / 1024:.1f} MiB"
