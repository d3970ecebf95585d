"""The checker of the chaos run: a history in which all is well passes it, and each single break of a rule is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from soundhistory import FAILED, FINISHED, everywhere, promise, replaced, sound, text

from chaos.checker import KINDS, check
from chaos.history import Call, Exit, Following, History, Message, load
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
def a_follower_is_told_that_redis_is_away_though_it_is_not(history: History) -> None:
    history.incidents[0].until = 19.0


@breaks("logged, not seen")
def a_follower_of_whom_nobody_hears_any_more_has_missed_the_end(history: History) -> None:
    history.followings[2].away = False


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
    history.leftovers.append(keys.workers("rq"))


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
