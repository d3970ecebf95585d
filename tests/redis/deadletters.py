"""Dead letters that tests look at: `letters` as the API has them, `deltabus` as the command line shows them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from deltabus.cli import exits, main
from deltabus.dead import DeadLetters, Filter

CHAT = "deltabus.tasks.chat"


#: What nobody may see who does not ask for it.
PROMPT = "the quick brown prompt jumps"


FAILS = {"error": "not_found"}


FAILS_ONCE = {"error": "not_found", "fail_attempts": 1}


@pytest.fixture
def letters(site):
    return DeadLetters(site.redis, "rq")


@pytest.fixture
def deltabus(site, tmp_path, monkeypatch):
    """`deltabus dead …`: its lines on stdout, with a check of its exit code."""
    monkeypatch.chdir(tmp_path)

    def deltabus(*words, code=exits.DONE, says=""):
        result = CliRunner().invoke(main, ["dead", *words, "--redis", site.url])
        assert result.exit_code == code, result.output
        assert says in result.stderr
        return result.stdout.splitlines()

    return deltabus


def everything(letters, **wanted):
    return [letter for page in letters.walk(Filter(**wanted)) for letter in page]


def one(letters):
    (letter,) = everything(letters)
    return letter


FAKE = """
for number = 0, ARGV[1] - 1 do
    local task = string.format("%s-%06d", ARGV[2], number)
    redis.call("HSET", "rq:job:" .. task, "status", "failed", "origin", ARGV[2], "description", ARGV[3],
        "ended_at", "2026-01-31T12:00:00.0Z", "data", ARGV[4])
    redis.call("ZADD", "rq:failed:" .. ARGV[2], 4000000000 + number, task)
end
redis.call("SADD", "rq:queues", "rq:queue:" .. ARGV[2])
"""


def fake(site, count, queue="chat"):
    """Failed jobs in numbers, as they stand in Redis."""
    site.redis.eval(FAKE, 0, count, queue, CHAT, json.dumps([CHAT, None, [site.request()], {}]))
