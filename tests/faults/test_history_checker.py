"""The checker of the chaos run: a history in which all is well passes it, and each single break of a rule is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from chaos.checker import KINDS, check
from chaos.history import Call, Exit, Following, History, Job, Message, Promise, Watch, load
from deltabus import keys

Spoil = Callable[[History], None]

#: What is done to a sound history, each with the kinds of violations that must be found then, and no others.
SPOILED: list[tuple[Spoil, frozenset[str]]] = []


def breaks(*kinds: str) -> Callable[[Spoil], Spoil]:
    """A function that spoils a history in one way; its name says how."""

    def listed(spoil: Spoil) -> Spoil:
        SPOILED.append((spoil, frozenset(kinds)))
        return spoil

    return listed


def event(task: str, id: str, type: str, **body: Any) -> Message:
    return Message(task, id, json.dumps({"type": type, "task": task, "id": id, **body}))


def text(task: str, id: str, words: str, type: str = "delta") -> Message:
    return event(task, id, type, chunks=[{"choices": [{"delta": {"content": words}}]}])


def completed(task: str, words: str) -> Message:
    result = {"choices": [{"message": {"content": words}}]}
    return event(task, keys.SEAL, "completed", at=30.0, result=result)


def promise(task: str, *outcomes: str, **more: Any) -> Promise:
    """It is one of a kind of which there is one here: its own."""
    times = {"sent_at": 10.0, "accepted_at": 11.0}
    return Promise(task=task, queue="chat", kind=task, outcomes=frozenset(outcomes), **times, **more)


FINISHED = Job(status="finished", registries=frozenset({"finished"}), results=(1,))
FAILED = Job(status="failed", registries=frozenset({"failed"}), results=(2,))
CANCELED = Job(status="canceled", registries=frozenset({"canceled"}))


def sound() -> History:
    """A history in which much went wrong and nothing amiss: a worker was lost, the observer was cut off."""
    history = History(
        seed=1,
        promises={
            "moved": promise("moved", "completed"),
            "long": promise("long", "completed", text="one two three four"),
            "refused": promise("refused", "failed:invalid_request", uncalled=True),
            "unwanted": promise("unwanted", "cancelled"),
        },
        calls=[
            Call(task="moved", number=1, at=13.0, text="first words"),
            Call(task="moved", number=2, at=23.0, text="second words", fault="500"),
            Call(task="moved", number=3, at=24.0, text="third words"),
            Call(task="unwanted", number=1, at=13.0, text="never said", fault="silence"),
        ],
        logs={
            "moved": [
                event("moved", "1-0", "started", at=12.0),
                text("moved", "1-1", "first "),
                event("moved", "2-0", "started", at=22.0),
                text("moved", "2-1", "third "),
                text("moved", "2-2", "words"),
                completed("moved", "third words"),
            ],
            "long": [
                text("long", "1-3", "one two ", "snapshot"),
                text("long", "1-4", "three four"),
                completed("long", "one two three four"),
            ],
            "refused": [event("refused", keys.SEAL, "failed", error={"code": "invalid_request", "message": "no"})],
            "unwanted": [
                event("unwanted", "1-0", "started", at=12.0),
                text("unwanted", "1-1", "never "),
                event("unwanted", keys.SEAL, "cancelled"),
            ],
        },
        jobs={"moved": FINISHED, "long": FINISHED, "refused": FAILED, "unwanted": CANCELED},
        exits=[Exit(worker="w1", code=0, asked=True)],
    )
    logs = history.logs
    before_the_snapshot = [
        event("long", "1-0", "started", at=12.0),
        text("long", "1-1", "one "),
        text("long", "1-2", "two "),
    ]
    # The observer is away from the middle of one task on, and back before the end of all.
    history.watches = [
        Watch(since=1.0, until=20.0, messages=[*logs["moved"][:2], *before_the_snapshot, *logs["long"]]),
        Watch(since=21.0, messages=[*logs["moved"][3:], *logs["unwanted"][1:]]),
        Watch(since=5.0, messages=[message for log in logs.values() for message in log]),
    ]
    history.watches[1].results = {"chat": []}
    history.watches[2].messages[6:6] = before_the_snapshot
    history.watches[2].results = {"chat": [log[-1] for log in logs.values()]}
    history.followings = [
        Following(task="moved", after=None, messages=logs["moved"][:2], dropped=True),
        Following(task="moved", after="1-1", messages=logs["moved"][2:]),
        Following(task="long", after=None, messages=logs["long"]),
    ]
    return history


def replaced(messages: list[Message], place: int, **changes: Any) -> None:
    """Change what one side has of an event."""
    old = messages[place]
    messages[place] = Message(old.task, changes.get("id", old.id), json.dumps(json.loads(old.text) | changes))


def everywhere(history: History, task: str, place: int, **changes: Any) -> None:
    """Change an event of a log, and what everybody has of it."""
    old = history.logs[task][place]
    replaced(history.logs[task], place, **changes)
    lists = [watch.messages for watch in history.watches] + [seen.messages for seen in history.followings]
    for messages in [*lists, *(told for watch in history.watches for told in watch.results.values())]:
        messages[:] = [history.logs[task][place] if message == old else message for message in messages]


@breaks("lost")
def an_accepted_task_has_no_log(history: History) -> None:
    history.promises["nowhere"] = promise("nowhere", "completed")
    history.watches[2].since = history.watches[1].since = 20.0


@breaks("lost")
def a_log_has_no_end(history: History) -> None:
    end = history.logs["moved"].pop()
    for messages in (*(watch.messages for watch in history.watches), history.followings[1].messages):
        messages[:] = [message for message in messages if message != end]
    history.watches[2].results["chat"].remove(end)


@breaks("doubled terminal", "stale writes")
def a_log_has_two_ends(history: History) -> None:
    history.logs["refused"] *= 2


@breaks("doubled terminal", "stale writes")
def an_observer_hears_two_ends(history: History) -> None:
    history.watches[2].messages.append(history.logs["unwanted"][-1])


@breaks("doubled terminal")
def an_end_is_announced_twice(history: History) -> None:
    history.watches[0].results = {"chat": [history.logs["moved"][-1]]}


@breaks("wrong ending")
def a_task_fails_that_should_complete(history: History) -> None:
    history.promises["refused"].outcomes = frozenset({"completed"})


@breaks("wrong ending")
def a_task_fails_for_another_reason(history: History) -> None:
    everywhere(history, "refused", -1, error={"code": "internal", "message": "a bug"})


@breaks("wrong ending")
def an_end_has_an_ordinary_id(history: History) -> None:
    everywhere(history, "refused", -1, id="1-0")


@breaks("gaps", "seen, not logged", "wrong text")
def a_log_has_lost_an_event(history: History) -> None:
    del history.logs["moved"][3]


@breaks("gaps", "seen, not logged", "wrong text")
def a_log_has_lost_the_beginning_of_an_attempt(history: History) -> None:
    del history.logs["moved"][2]


@breaks("gaps")
def an_attempt_has_no_number(history: History) -> None:
    for place, n in ((2, 0), (3, 1), (4, 2)):
        everywhere(history, "moved", place, id=f"3-{n}")


@breaks("gaps")
def an_attempt_begins_in_its_middle(history: History) -> None:
    everywhere(history, "unwanted", 1, type="started", at=13.0)


@breaks("gaps")
def an_attempt_begins_without_saying_so(history: History) -> None:
    everywhere(history, "unwanted", 0, type="progress")


@breaks("gaps")
def an_event_is_published_twice(history: History) -> None:
    history.watches[2].messages.insert(1, history.logs["moved"][0])


@breaks("gaps")
def a_follower_gets_an_event_twice(history: History) -> None:
    history.followings[1].messages.insert(2, history.logs["moved"][3])


@breaks("gaps")
def a_follower_gets_again_what_is_before_its_cursor(history: History) -> None:
    history.followings[1].messages.insert(0, history.logs["moved"][1])


@breaks("stale writes")
def an_event_of_an_old_attempt_is_published_after_a_newer_one_has_begun(history: History) -> None:
    messages = history.watches[2].messages
    assert messages[1].id == "1-1"
    messages.insert(2, messages.pop(1))


@breaks("stale writes")
def an_event_is_published_after_the_end(history: History) -> None:
    messages = history.watches[2].messages
    messages[4], messages[5] = messages[5], messages[4]


@breaks("seen, not logged", "gaps")
def something_is_published_that_the_log_does_not_have(history: History) -> None:
    history.watches[2].messages.insert(5, text("moved", "2-9", "invented"))


@breaks("seen, not logged")
def what_is_published_differs_from_the_log_in_a_byte(history: History) -> None:
    messages = history.watches[2].messages
    messages[3] = Message("moved", "2-1", messages[3].text + " ")


@breaks("seen, not logged")
def a_follower_gets_something_else_than_the_log_has(history: History) -> None:
    replaced(history.followings[0].messages, 1, chunks=[])


@breaks("seen, not logged")
def another_end_is_announced(history: History) -> None:
    replaced(history.watches[2].results["chat"], 0, result=None)


@breaks("seen, not logged")
def an_end_is_announced_on_another_queue(history: History) -> None:
    history.watches[2].results["urgent"] = [history.watches[2].results["chat"].pop()]


@breaks("logged, not seen", "gaps")
def an_observer_misses_an_event(history: History) -> None:
    del history.watches[2].messages[3]


@breaks("logged, not seen")
def an_observer_who_was_there_misses_the_end(history: History) -> None:
    history.watches[2].messages.remove(history.logs["refused"][-1])


@breaks("logged, not seen")
def an_observer_who_was_there_hears_nothing_of_a_task(history: History) -> None:
    watch = history.watches[2]
    watch.messages = [message for message in watch.messages if message.task != "unwanted"]


@breaks("logged, not seen")
def a_follower_gets_no_end(history: History) -> None:
    history.followings[1].messages.pop()


@breaks("logged, not seen")
def a_follower_meets_an_error(history: History) -> None:
    history.followings.append(Following(task="moved", after=None, error="UnknownTask: no such task"))


@breaks("logged, not seen")
def an_end_is_never_announced(history: History) -> None:
    history.watches[2].results["chat"].pop()


@breaks("wrong text")
def a_result_is_not_what_was_to_be_said(history: History) -> None:
    history.promises["long"].text = "something else"


@breaks("wrong text")
def a_result_is_what_a_call_of_an_earlier_attempt_has_said(history: History) -> None:
    history.calls[2].at = 21.0


@breaks("wrong text")
def a_result_is_what_a_failed_call_has_said(history: History) -> None:
    history.calls[2].fault = "reset mid-stream"


@breaks("wrong text")
def the_streamed_text_is_not_the_result(history: History) -> None:
    everywhere(history, "moved", 4, chunks=[])


@breaks("wrong text")
def a_snapshot_has_lost_some_of_the_text(history: History) -> None:
    everywhere(history, "long", 0, chunks=[{"choices": [{"delta": {"content": "one "}}]}])


@breaks("needless calls")
def the_provider_is_called_for_what_was_not_to_begin(history: History) -> None:
    history.calls.append(Call(task="refused", number=1, at=13.0, text="oh"))


@breaks("needless calls")
def the_provider_is_called_outside_of_any_attempt(history: History) -> None:
    history.promises["refused"].uncalled = False
    history.calls.append(Call(task="refused", number=1, at=13.0, text="oh"))


@breaks("needless calls")
def a_connection_to_the_provider_is_never_closed(history: History) -> None:
    history.calls[3].left_open = True


@breaks("misfiled")
def rq_has_lost_a_job(history: History) -> None:
    del history.jobs["moved"]


@breaks("misfiled")
def a_completed_job_still_runs_for_rq(history: History) -> None:
    history.jobs["moved"] = msgspec.structs.replace(FINISHED, status="started")


@breaks("misfiled")
def a_job_is_in_two_registries(history: History) -> None:
    history.jobs["moved"] = msgspec.structs.replace(FINISHED, registries=frozenset({"finished", "failed"}))


@breaks("misfiled")
def a_job_is_in_no_registry(history: History) -> None:
    history.jobs["refused"] = msgspec.structs.replace(FAILED, registries=frozenset())


@breaks("misfiled")
def a_result_is_recorded_twice(history: History) -> None:
    history.jobs["moved"] = msgspec.structs.replace(FINISHED, results=(1, 1))


@breaks("leftovers")
def a_job_keeps_an_account_that_is_closed(history: History) -> None:
    history.jobs["moved"] = msgspec.structs.replace(FINISHED, notes=frozenset({"deltabus_open"}))


@breaks("leftovers")
def a_lease_is_left(history: History) -> None:
    history.leftovers.append(keys.WORKERS)


@breaks("crashes")
def a_worker_ends_though_nobody_has_told_it_to(history: History) -> None:
    history.exits.append(Exit(worker="w2", code=0, asked=False))


@breaks("crashes")
def a_worker_that_is_told_to_leave_crashes(history: History) -> None:
    history.exits.append(Exit(worker="w2", code=1, asked=True))


def test_a_history_in_which_all_is_well_has_no_violation() -> None:
    assert check(sound()) == []


def test_a_history_that_was_saved_is_the_same_when_it_is_loaded(tmp_path: Any) -> None:
    sound().save(tmp_path / "history.json")
    assert msgspec.to_builtins(load(tmp_path / "history.json")) == msgspec.to_builtins(sound())


@pytest.mark.parametrize(("spoil", "kinds"), SPOILED, ids=[spoil.__name__ for spoil, _ in SPOILED])
def test_a_break_is_found_where(spoil: Spoil, kinds: frozenset[str]) -> None:
    history = sound()
    spoil(history)
    violations = check(history)
    assert {violation.kind for violation in violations} == kinds, violations


def test_every_kind_of_violation_is_found_by_itself() -> None:
    assert {kind for _, kinds in SPOILED if len(kinds) == 1 for kind in kinds} == set(KINDS)
