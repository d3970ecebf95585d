"""What `deltabus top` and `deltabus stats` make of an overview."""

from __future__ import annotations

import io
import re
from typing import Any

import msgspec
import pytest
from rich.console import Console

from deltabus.cli.figures import bar, span, spark
from deltabus.cli.panels import screen, shares
from deltabus.cli.sections import sections, summary
from deltabus.overview import FailureView, Overview, QueueView, ServerView, TaskView, WorkerView, rates

SERVER = ServerView(
    version="7.2.4",
    used_memory=13 * 1024**2,
    max_memory=0,
    clients=9,
    commands_per_second=1234,
    published=1000,
    role="master",
)


def queue(name: str, **facts: Any) -> QueueView:
    counts = dict.fromkeys(("waiting", "running", "scheduled", "deferred", "failed"), 0)
    return QueueView(name=name, oldest=facts.pop("oldest", 0.0), **(counts | facts))


def worker(name: str, **facts: Any) -> WorkerView:
    usual = {"state": "busy", "queues": ("chat",), "host": "h", "pid": 1, "running": 3, "slots": 10, "lease": 9.0}
    return WorkerView(name=name, **{**usual, "silent": 1.0, "age": 60.0, "completed": 5, "failed": 0, **facts})


def task(id: str, **facts: Any) -> TaskView:
    usual = {"queue": "chat", "function": "chat", "worker": "w", "age": 5.0, "events": 10, "retries": 0}
    return TaskView(id=id, **{**usual, **facts})


def overview(**facts: Any) -> Overview:
    empty = {"queues": (), "workers": (), "tasks": (), "failures": (), "more_queues": 0, "more_workers": 0}
    return Overview(**{"at": 100.0, "suspended": False, "server": SERVER, **empty, "commands": 24, **facts})


BUSY = overview(
    queues=(queue("batch", waiting=1200, oldest=95.0), queue("chat", running=3, failed=2)),
    workers=(worker("w-1"), worker("w-2", lease=-3.0), worker("rq", lease=None, slots=1, running=1, failed=2)),
    tasks=(task("t-1", retries=2), task("t-2")),
    failures=(FailureView(id="t-3", queue="chat", age=3.0, code="rate_limited"), FailureView(id="j", queue="q", age=9)),
)


def lines(now: Overview, size: tuple[int, int] = (120, 30), **more: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=size[0], height=size[1], color_system=None)
    between = more.pop("between", None)
    console.print(screen("redis://h:6379/0", now, between, size=size, **more))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def line_of(shown: list[str], word: str) -> str:
    return next(line for line in shown if word in line)


def test_a_screen_shows_all_of_a_small_bus():
    shown = lines(BUSY)
    assert shown[0].startswith("redis://h:6379/0  1,200 waiting  3 running  2 failed  Redis 7.2.4: 13.0 MiB, 9 clients")
    assert line_of(shown, "│  batch").split()[1:4] == ["batch", "1,200", "95s"]
    assert "███░░░░░░░ 3/10" in line_of(shown, "w-1")
    assert "lost" in line_of(shown, "w-2")
    assert "██████████ 1/1" in line_of(shown, "│  rq ")
    assert line_of(shown, "t-1").split()[-3:-1] == ["2", "w"]
    assert "3.0s ago" in line_of(shown, "rate_limited")
    assert shown[-1] == "q quit   24 commands a look"


def test_whoever_has_lost_its_lease_comes_first_and_the_fullest_queue_too():
    queues, workers, *_ = sections(BUSY, None, 9)
    assert [row[0][0] for row in workers.rows] == ["w-2", "w-1", "rq"]
    assert [row[0][0] for row in queues.rows] == ["batch", "chat"]


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (200, 60), (20, 4), (12, 40), (5, 9), (6, 3)])
def test_a_screen_is_never_larger_than_the_terminal(size):
    many = msgspec.structs.replace(
        BUSY, tasks=tuple(task(f"t-{number}") for number in range(50)), queues=tuple(map(queue, "abcdefghij"))
    )
    shown = lines(many, size)
    assert len(shown) <= size[1]
    assert max(map(len, shown)) <= size[0]


def test_a_low_terminal_shows_queues_and_workers_first():
    for height, titles in ((24, 4), (19, 4), (18, 3), (15, 3), (14, 2), (11, 2), (10, 1), (7, 1), (6, 0)):
        found = re.findall(r"╭─ (\w+)", "\n".join(lines(BUSY, (80, height))))
        assert found == ["queues", "workers", "running", "failed"][:titles]


def test_what_has_no_room_is_counted():
    many = msgspec.structs.replace(
        BUSY, tasks=tuple(task(f"t-{number}") for number in range(50)), queues=(queue("chat", running=400),)
    )
    shown = lines(many, (120, 30))
    assert "running, the longest first: 400" in "\n".join(shown)
    assert any(re.search(r"─ and 3\d\d more ─", line) for line in shown)


def test_an_empty_bus_says_what_to_do():
    shown = "\n".join(lines(overview(suspended=True)))
    assert "nobody has enqueued anything" in shown
    assert "start one with `deltabus worker`" in shown
    assert "SUSPENDED (`rq resume`)" in shown
    assert "running, the longest" not in shown


def test_rates_are_of_two_looks_and_never_below_zero():
    later = msgspec.structs.replace(
        BUSY,
        at=110.0,
        server=msgspec.structs.replace(SERVER, published=1500),
        workers=(worker("w-1", completed=25, failed=1), worker("new", completed=1000), worker("w-2", completed=0)),
        tasks=(task("t-1", events=60), task("t-2", events=1), task("t-9", events=500)),
    )
    between = rates(BUSY, later)
    assert (between.over, between.completed, between.failed, between.events) == (10.0, 2.0, 0.1, 50.0)
    assert between.tasks == {"t-1": 5.0, "t-2": 0.0}
    shown = lines(later, between=between, history=[between, rates(BUSY, BUSY), between])
    assert shown[1].startswith("50.0 events/s █▁█   2.0 completed/s █▁█   0.1 failed/s █▁█")
    assert "50 events/s, 2.0 completed/s, 0.1 failed/s" in summary(later, between)


def test_names_do_not_leave_their_line_nor_move_the_cursor():
    odd = overview(
        queues=(queue("a\x1b[2Jb\nc\td", waiting=1, failed=1),),
        workers=(worker("w\x07", host="h\x9b", state="b\rusy", queues=("q\u2028",)),),
        tasks=(task("t\u202e1", function="f\u200b", worker="w\x7f", queue="\u2066q"),),
        failures=(FailureView(id="i\x00", queue="q\n", age=1.0, code="c\x1b", provider="p\x85"),),
    )
    shown = "\n".join(lines(odd, (200, 40), note="a\nb\x1b]0;c\x07"))
    assert all(character.isprintable() for character in shown.replace("\n", ""))
    assert "a␛[2Jb␊c␉d" in shown
    assert "t\ufffd1" in shown
    assert "a␊b␛]0;c␇" in shown


LONG = overview(
    queues=(queue("a-queue-with-a-name-that-is-rather-long", waiting=1_234_567, oldest=95.0, running=120, failed=9),),
    workers=(
        worker("host-17.example.com.31337.0123456789abcdef", running=45, slots=45, completed=99_999, host="h" * 30),
    ),
    tasks=(task("7f2c1f0e-8d0a-4b43-9a3c-5f6a5d1b2c3d", queue="a-queue-with-a-name-that-is-rather-long"),),
    failures=(FailureView(id="7f2c1f0e-8d0a-4b43-9a3c-5f6a5d1b2c3d", queue="chat", age=3.0, code="rate_limited"),),
)


@pytest.mark.parametrize("width", [60, 80])
def test_what_matters_most_is_whole_on_a_narrow_terminal(width):
    shown = lines(LONG, (width, 24))
    assert max(map(len, shown)) <= width
    assert shown[0] == "redis://h:6379/0  1,234,567 waiting  120 running  9 failed"

    def of(section: str) -> dict[str, str]:
        place = next(at for at, line in enumerate(shown) if f"─ {section}" in line)
        names, values = (re.split(r"  +", line.strip("│ ")) for line in shown[place + 1 : place + 3])
        return dict(zip(names, values, strict=False))

    queues = of("queues")
    assert (queues["waiting"], queues["oldest"], queues["running"]) == ("1,234,567", "95s", "120")
    workers = of("workers")
    assert workers["worker"].startswith("host-17.")
    assert workers["worker"].endswith("9abcdef")
    found = {name: workers[name] for name in ("state", "slots", "lease", "up")}
    assert found == {"state": "busy", "slots": "██████████ 45/45", "lease": "9.0s", "up": "60s"}
    tasks = of("running")
    assert (tasks["task"], tasks["for"]) == ("7f2c1f0e-8d0a-4b43-9a3c-5f6a5d1b2c3d", "5.0s")
    assert of("failed")["code"] == "rate_limited"


def test_a_long_address_makes_room_for_the_numbers():
    console = Console(file=io.StringIO(), width=80, height=24, color_system=None)
    address = "redis+sentinel://sentinel-1.internal:26379,sentinel-2.internal:26379,sentinel-3.internal:26379/main"
    console.print(screen(address, BUSY, None, size=(80, 24)))
    first = console.file.getvalue().splitlines()[0]  # type: ignore[attr-defined]
    assert first.startswith("redis+sentinel://")
    assert "…" in first
    assert "1,200 waiting  3 running  2 failed" in first


def test_what_is_wrong_stands_at_the_bottom_in_as_many_lines_as_it_takes():
    assert lines(BUSY, note="Redis is away")[-1] == "Redis is away"
    shown = lines(BUSY, (40, 24), note="12s old: " + "far away " * 8)
    assert shown[-2:] == ["12s old: far away far away far away far", "away far away far away far away far away"]
    assert len(shown) <= 24


def test_the_busiest_queues_are_listed_and_the_others_counted():
    many = tuple(queue(f"q{number}", waiting=number % 7, running=number) for number in range(40))
    shown = lines(overview(queues=many), (80, 24))
    assert [line.split()[1] for line in shown[4:7]] == ["q34", "q27", "q20"]
    assert re.search(r"─ and 2\d more ─", "\n".join(shown))


def test_a_redis_that_says_nothing_of_itself_is_no_empty_one():
    blind = msgspec.structs.replace(BUSY, server=None)
    between = rates(blind, blind)
    assert summary(blind, between) == ["1,200 waiting", "3 running", "2 failed", "0.0 completed/s, 0.0 failed/s"]
    assert lines(blind, between=between)[1].startswith("0.0 completed/s")
    replica = msgspec.structs.replace(BUSY, server=msgspec.structs.replace(SERVER, role="replica"))
    assert "Redis 7.2.4, a replica: " in summary(replica, None)[-1]


@pytest.mark.parametrize(
    ("wanted", "room", "given"),
    [
        ([2, 3, 50, 1], 20, [2, 3, 14, 1]),
        ([9, 9, 9, 9], 9, [3, 3, 2, 1]),
        ([9, 1, 9], 9, [5, 1, 3]),
        ([5, 5], 3, [2, 1]),
        ([9, 9, 9], 3, [1, 1, 1]),
        ([1, 1], 9, [1, 1]),
        ([3], -2, [0]),
        ([], 5, []),
    ],
)
def test_lines_are_shared_in_turns(wanted, room, given):
    assert shares(wanted, room) == given


def test_times_bars_and_sparks_are_short():
    times = (0.04, 9.9, 61, 119, 180, 7100, 7300, 172_800, 864_000)
    assert [span(seconds) for seconds in times] == ["0.0s", "9.9s", "61s", "119s", "3m", "118m", "2h", "2d", "10d"]
    assert [bar(0, 10), bar(1, 100), bar(100, 100), bar(7, 1)] == [
        *("░░░░░░░░░░ 0/10", "█░░░░░░░░░ 1/100", "██████████ 100/100", "██████████ 7/1")
    ]
    assert (spark([0.0, 5.0, 10.0]), spark([0.0, 0.0]), spark([])) == ("▁▄█", "▁▁", "")
