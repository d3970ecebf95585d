"""Streams rest while their process is busy and rests are of use, and at no other time. Clocks are numbers here."""

from __future__ import annotations

from deltabus.http.pace import AGAIN, BUSY, PERIOD, REST, Pace


class Process:
    """A thread with a clock: it reads streams of so many chunks a second, and works for so long on each read."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.worked = 50.0
        self.pace = Pace(lambda: self.now, lambda: self.worked)
        self.rest = 0.0

    def go_on(self, seconds: float, *, chunks: float, read: float, streams: int = 100) -> list[float]:
        """Read on; returns the rests, one for each period."""
        rests = []
        for _ in range(round(seconds / PERIOD)):
            # A stream is read when it has rested, or else as soon as there is a chunk.
            reads = round(PERIOD * streams * min(chunks, 1 / self.rest if self.rest else chunks))
            pieces = divmod(round(PERIOD * streams * chunks), reads)
            for number in range(reads):
                self.now += PERIOD / reads
                self.worked += read
                self.rest = self.pace.rest(pieces[0] + (number < pieces[1]))
            rests.append(self.rest)
        return rests


def test_a_process_that_has_time_reads_at_once() -> None:
    assert set(Process().go_on(5, chunks=50, read=BUSY * 0.9 / (100 * 50))) == {0.0}


def test_a_busy_one_rests_for_as_long_as_makes_it_less_busy() -> None:
    process = Process()
    rests = process.go_on(5, chunks=50, read=0.9 / (100 * 50))
    assert rests[1] == REST[0]
    assert 1 / 50 < rests[-1] < REST[1], "each read brings more than a chunk, and no more than it takes"
    worked = process.worked
    process.go_on(5, chunks=50, read=0.9 / (100 * 50))
    assert (process.worked - worked) / 5 < BUSY * 1.1


def test_it_reads_at_once_again_when_it_has_time_again() -> None:
    process = Process()
    assert process.go_on(5, chunks=50, read=0.9 / (100 * 50))[-1] > 0
    assert process.go_on(5, chunks=50, read=0.3 / (100 * 50))[-1] == 0.0


def test_rests_never_get_longer_than_the_longest() -> None:
    process = Process()
    assert max(process.go_on(5, chunks=100, read=5 / (100 * 50))) == REST[1]


def test_slow_streams_are_not_kept_waiting_for_nothing() -> None:
    """Each of their reads brings a chunk, however long they rest."""
    process = Process()
    rests = process.go_on(5, chunks=5, read=0.9 / (100 * 5))
    assert max(rests) >= REST[1] / 2
    assert rests[-1] == 0.0
    assert max(process.go_on(AGAIN * 0.4, chunks=5, read=0.9 / (100 * 5))) == 0.0
    assert max(process.go_on(AGAIN, chunks=5, read=0.9 / (100 * 5))) > 0.0, "they may be faster by now"


def test_after_a_silence_nobody_rests() -> None:
    process = Process()
    assert process.go_on(5, chunks=50, read=0.9 / (100 * 50))[-1] > 0
    process.now += 3600
    process.worked += 3600
    assert process.pace.rest(1) == 0.0
