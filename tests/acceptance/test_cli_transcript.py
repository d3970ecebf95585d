"""What the events of a chat task come to on a screen."""

from __future__ import annotations

from typing import Any

import pytest

from deltabus import keys
from deltabus.cli.transcript import Piece, Transcript, answer
from deltabus.errors import ErrorInfo
from deltabus.events import AnyEvent, Completed, Delta, Failed, Progress, Retrying, Snapshot, Started


def started(attempt: int = 1) -> Started:
    return Started(task="t", id=f"{attempt}-0", at=0.0)


def delta(id: str, *deltas: dict[str, Any]) -> Delta:
    return Delta(task="t", id=id, chunks=tuple({"choices": [{"index": 0, "delta": each}]} for each in deltas))


def snapshot(id: str, *deltas: dict[str, Any]) -> Snapshot:
    return Snapshot(task="t", id=id, chunks=delta(id, *deltas).chunks)


def completed(*texts: str | None, **message: Any) -> Completed:
    choices = [
        {"index": at, "message": {"content": text, **message}, "finish_reason": "stop"} for at, text in enumerate(texts)
    ]
    return Completed(task="t", id=keys.SEAL, at=0.0, result={"choices": choices})


def shown(transcript: Transcript, *events: AnyEvent) -> list[Piece]:
    return [piece for event in events for piece in transcript.feed(event)]


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if piece.kind == "text")


def kinds(pieces: list[Piece]) -> list[str]:
    return [piece.kind for piece in pieces]


def test_deltas_are_shown_as_they_come_and_not_again_at_the_end() -> None:
    pieces = shown(
        Transcript(),
        started(),
        delta("1-1", {"role": "assistant", "content": ""}, {"content": "Hel"}),
        delta("1-2", {"content": "lo"}, {}),
        completed("Hello"),
    )
    assert text(pieces) == "Hello"
    assert pieces[-1] == Piece("note", "completed")


def test_an_answer_that_came_in_one_piece_is_shown_at_the_end() -> None:
    assert text(shown(Transcript(), started(), completed("all at once"))) == "all at once"


def test_what_the_model_thinks_is_told_from_what_it_says() -> None:
    pieces = shown(
        Transcript(),
        delta("1-1", {"reasoning_content": "hm"}, {"reasoning": " so"}, {"reasoning": "!", "reasoning_content": "!"}),
        delta("1-2", {"content": "Yes."}),
    )
    assert pieces == [
        Piece("reasoning", "hm"),
        Piece("reasoning", " so"),
        Piece("reasoning", "!"),
        Piece("text", "Yes."),
    ]


def test_a_refusal_is_part_of_the_answer() -> None:
    assert text(shown(Transcript(), delta("1-1", {"refusal": "I will "}, {"refusal": "not."}))) == "I will not."


def test_a_new_attempt_voids_what_the_last_one_streamed() -> None:
    error = ErrorInfo(code="rate_limited", message="slow down", retryable=True)
    pieces = shown(
        Transcript(),
        started(),
        delta("1-1", {"content": "Hel"}),
        Retrying(task="t", id="1-2", at=0.0, reason="error", delay=1.5, error=error),
        started(2),
        delta("2-1", {"content": "Hello"}),
        completed("Hello"),
    )
    assert kinds(pieces) == ["text", "note", "void", "text", "text", "note"]
    assert pieces[1].text == "retrying in 1.5 s: rate_limited: slow down"
    assert text(pieces[3:]) == "Hello"


def test_a_new_attempt_after_nothing_was_shown_voids_nothing() -> None:
    assert kinds(shown(Transcript(), started(), started(2))) == ["note"]


def test_a_snapshot_adds_only_what_was_not_shown() -> None:
    pieces = shown(
        Transcript(),
        delta("1-1", {"content": "Hel"}),
        snapshot("1-2", {"content": "Hello, "}),
        snapshot("1-3", {"content": "Hello, "}),
        delta("1-4", {"content": "you"}),
    )
    assert text(pieces) == "Hello, you"
    assert "void" not in kinds(pieces)


def test_a_snapshot_of_something_else_replaces_what_was_shown() -> None:
    pieces = shown(Transcript(), delta("1-1", {"content": "Hel"}), snapshot("1-2", {"content": "Good bye"}))
    assert kinds(pieces) == ["text", "void", "text"]
    assert pieces[-1].text == "Good bye"


def test_a_resumed_transcript_shows_what_follows_the_cursor() -> None:
    pieces = shown(Transcript("1-1"), delta("1-2", {"content": "lo"}), completed("Hello"))
    assert text(pieces) == "lo"


def test_a_resumed_transcript_that_meets_a_snapshot_starts_over() -> None:
    pieces = shown(Transcript("1-1"), snapshot("1-9", {"content": "Hello"}), completed("Hello"))
    assert kinds(pieces)[:2] == ["void", "text"]
    assert text(pieces) == "Hello"


def test_resuming_before_anything_was_streamed_shows_all() -> None:
    assert text(shown(Transcript("1-0"), completed("Hello"))) == "Hello"


def test_the_cursor_is_the_last_event_seen() -> None:
    transcript = Transcript()
    shown(transcript, started(), delta("1-1", {"content": "a"}))
    assert transcript.cursor == "1-1"


def test_further_choices_and_tool_calls_are_shown_at_the_end() -> None:
    calls = [{"function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}]
    pieces = shown(Transcript(), completed("one", "two"), completed(None, tool_calls=calls))
    assert text(pieces) == "onetwo\n"
    assert Piece("note", 'tool call weather({"city":"Oslo"})') in pieces


def test_an_ending_that_is_not_a_plain_stop_is_told() -> None:
    result = {"choices": [{"message": {"content": "x"}, "finish_reason": "length"}], "usage": {"completion_tokens": 1}}
    pieces = shown(Transcript(), Completed(task="t", id=keys.SEAL, at=0.0, result=result))
    assert pieces[-1].text == "completed, finish_reason length, 1 token"


def test_progress_is_told() -> None:
    event = Progress(task="t", id="1-1", at=0.0, done=5, total=9)
    assert shown(Transcript(), event) == [Piece("note", "5 of 9 bytes")]


def test_a_failure_is_left_to_the_error_line() -> None:
    event = Failed(task="t", id=keys.SEAL, at=0.0, error=ErrorInfo(code="internal", message="x"))
    assert shown(Transcript(), event) == []


@pytest.mark.parametrize("result", [None, 3, [], {"choices": None}, {"choices": [None]}, {"choices": [{}]}])
def test_a_result_that_is_no_completion_has_no_text(result: Any) -> None:
    assert answer(result) is None
    assert text(shown(Transcript(), Completed(task="t", id=keys.SEAL, at=0.0, result=result))) == ""
