"""ops/scaling.md reckons right: its table follows from its constants, and those from what was measured."""

from __future__ import annotations

import json
import math
import re

import pytest
from documents import ROOT

DOCUMENT = ROOT / "ops" / "scaling.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
#: What a constant is called in ops/bench/one_redis.json: the case and the figure.
MEASURED = {
    "redis_delta": ("a delta, 500 streams x 5/s", "cpu"),
    "redis_delta_busy": ("a delta, 500 streams x 50/s", "cpu"),
    "redis_delta_full": ("a delta, a core full of them", "cpu"),
    "redis_commands": ("a delta, 500 streams x 5/s", "commands"),
    "redis_message": ("a message, delivered", "cpu"),
    "message_out": ("a message, delivered", "bytes out"),
    "delta_in": ("a delta, 500 streams x 5/s", "bytes in"),
    "waiting_memory": ("a waiting task", "memory"),
    "running_memory": ("a running task, its log not counted", "memory"),
    "ended_memory": ("an ended task of 1 deltas", "memory"),
    "process_connections": ("a worker process, without its streams", "connections"),
    "process_files": ("a worker process, without its streams", "files"),
}


def constants() -> dict[str, float]:
    """What the document's two tables of constants say."""
    rows = re.findall(r"^\| `(\w+)` \| ([\d.,]+) \|", TEXT, re.MULTILINE)
    return {name: float(value.replace(",", "")) for name, value in rows}


def short(value: float) -> str:
    """A number to two digits: 0.12, 4.7, 130, 2,600."""
    if value == 0:
        return "0"
    digits = 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def size(value: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{short(value)} {unit}"
        value /= 1000
    return f"{short(value)} TB"


def row(streams: int, c: dict[str, float]) -> list[str]:
    """A row of the table, reckoned."""
    deltas = streams * c["rate"]
    tasks = deltas / c["answer"]
    processes = math.ceil(streams / c["process_streams"])
    redis = deltas * (c["redis_delta"] + c["subscribers"] * c["redis_message"]) + tasks * c["redis_task"]
    ended = tasks * c["ttl"] * (c["ended_memory"] + c["answer"] * c["delta_memory"])
    return [
        f"{streams:,}",
        f"{deltas:,.0f}",
        short(tasks),
        f"{processes:,}",
        short((deltas * c["worker_delta"] + tasks * c["worker_task"]) / 1e6),
        size(processes * c["process_memory"] * 1e6 + streams * c["stream_memory"] * 1e3),
        f"{streams + processes * c['process_files']:,.0f}",
        short(redis / 1e6),
        f"{math.ceil(redis / 1e6 / c['redis_share']):,}",
        f"{processes * c['process_connections']:,.0f}",
        size(streams * (c["running_memory"] + c["answer"] / 2 * c["delta_memory"])),
        size(ended),
        size(deltas * (c["delta_in"] + c["subscribers"] * c["message_out"])) + "/s",
    ]


def table() -> list[list[str]]:
    body = TEXT.partition("| streams |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def test_every_row_of_the_table_follows_from_the_constants() -> None:
    rows = table()
    assert [cells[0] for cells in rows] == [f"{10**power:,}" for power in range(7)]
    known = constants()
    for cells in rows:
        assert cells == row(int(cells[0].replace(",", "")), known)


@pytest.mark.parametrize("name", MEASURED)
def test_a_constant_is_what_was_measured_to_two_digits(name: str) -> None:
    case, figure = MEASURED[name]
    measured = json.loads((ROOT / "ops" / "bench" / "one_redis.json").read_text(encoding="utf-8"))["figures"]
    assert constants()[name] == float(f"{measured[case][figure][0]:.2g}")


def test_a_delta_more_in_a_log_is_what_was_measured() -> None:
    measured = json.loads((ROOT / "ops" / "bench" / "one_redis.json").read_text(encoding="utf-8"))["figures"]
    short_log, long_log = (measured[f"an ended task of {words} deltas"]["memory"][0] for words in (1, 500))
    assert constants()["delta_memory"] == float(f"{(long_log - short_log) / 499:.2g}")


def test_the_date_and_the_machine_are_those_of_the_measurement() -> None:
    measured = json.loads((ROOT / "ops" / "bench" / "one_redis.json").read_text(encoding="utf-8"))
    assert measured["date"] in TEXT
    assert measured["machine"]["processor"] in TEXT


def test_limits_that_the_text_names_follow_from_the_constants() -> None:
    c = constants()
    delta = c["redis_delta"] + c["subscribers"] * c["redis_message"] + c["redis_task"] / c["answer"]
    streams = c["redis_share"] * 1e6 / (delta * c["rate"])
    assert f"At {short(streams)} streams a Redis" in TEXT
    assert f"at {short(c['redis_share'] * 1e6 / c['redis_task'])} tasks a second it has its 60 %" in TEXT


def test_every_link_leads_to_something() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT):
        assert (DOCUMENT.parent / target).exists(), target
