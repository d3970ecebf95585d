"""Memory stays flat whatever the size: a file goes through in pieces, wherever it comes from and goes to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Bytes that go through, and by how many the process may grow.
SIZE = 128 * 1024 * 1024
GROWTH = 32 * 1024 * 1024

PROGRAM = """
import asyncio, resource, sys
from contextlib import aclosing
from deltabus import AsyncBus
from deltabus.provider import Download
from depots import depot_at

way, url, path, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

async def read(content, start, length):
    done = 0
    async with aclosing(content.read(start, length)) as pieces:
        async for piece in pieces:
            done += len(piece)
    return done

async def once(depot, source):
    # As a provider reads it: in four parts at once.
    async with depot.open(source, param="source") as content:
        part = content.size // 4
        assert sum(await asyncio.gather(*(read(content, at * part, part) for at in range(4)))) == content.size
        return content

async def main():
    async with depot_at(url, file_roots=("/",)) as depot, AsyncBus(url) as bus:
        small = await bus.blob(b"x" * 4_000_000)
        await once(depot, {"blob": small})  # what is loaded once is loaded now
        await bus.delete_blob(small)
        before = peak()
        if way == "path":
            content = await once(depot, {"path": path})
        elif way == "blob":
            content = await once(depot, {"blob": await bus.blob(path)})
        else:
            async with depot.open({"path": path}, param="source") as content:
                kept = await depot.keep(Download(content.read()), {"blob": "kept"}, param="to")
                assert kept["bytes"] == size
        assert content.size == size
        print(peak() - before)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes no room."""
    path = tmp_path_factory.mktemp("large") / "file"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


@pytest.mark.parametrize("way", ["path", "blob", "download"])
def test_memory_does_not_grow_with_the_file(way, large, redis_url):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, way, redis_url, str(large), str(SIZE)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < GROWTH
