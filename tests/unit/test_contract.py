"""The contract finds each of the faults that it is there for, and none in a provider without any."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from faultyproviders import (
    STUBBORN,
    Abstract,
    Buffers,
    ChangesBody,
    CheckParses,
    CheckRaises,
    CheckReturnsBool,
    CheckSaysNothing,
    CheckSaysTooMuch,
    CheckShowsKey,
    ClosesOnce,
    Dawdles,
    EatsSettings,
    EndsQuietly,
    ExpectsObjects,
    ExpectsText,
    Forgets,
    JamsAtGarbage,
    Leaves,
    LetsTheParserOut,
    Looks,
    Misclassifies,
    Mixes,
    NeedsLoop,
    NoIterator,
    OneAtATime,
    OwnClass,
    RaisesForeign,
    RefusesWithoutHint,
    RefusesWithoutName,
    RefusesWithSecret,
    SaysNothing,
    ShowsKey,
    ShowsKeyInCause,
    Stubborn,
    Swallows,
    TakesAnySetting,
    TakesAnything,
    Unregistered,
    saying,
)
from goodprovider import TEXT, Contract, Good, chunk, completion

from deltabus.provider import (
    Chunk,
    Completion,
)
from deltabus.testing import ProviderContract, situations
from deltabus.testing.garbage import GARBAGE

pytest_plugins = ["pytester"]


class TestGood(Contract):
    patience = ProviderContract.patience  # Nothing hangs here, however busy the machine is.

    exempt: ClassVar[Mapping[str, str]] = {"test_is_registered_by_entry_point": "it lives in a test file"}


RAW = Chunk(b'{"choices": [],\n"a":1}', {"choices": [], "a": 1})
END = chunk(reason="stop")

FAULTS = [
    (Unregistered, "test_is_registered_by_entry_point", "no entry point of the group 'deltabus.providers' leads to"),
    (Abstract, "test_is_a_class_that_can_be_made", "Abstract does not define chat"),
    (dict, "test_is_a_class_that_can_be_made", "is not a subclass of deltabus.provider.Provider"),
    (Looks, "test_is_made_without_a_loop_and_without_connecting", "__init__ connects or looks a name up"),
    (NeedsLoop, "test_is_made_without_a_loop_and_without_connecting", "no running event loop"),
    (EatsSettings, "test_does_not_change_its_settings", "changes the mapping"),
    (TakesAnySetting, "test_an_unknown_setting_is_refused_by_name_and_told_the_nearest", "DID NOT RAISE"),
    (RefusesWithoutName, "test_an_unknown_setting_is_refused_by_name_and_told_the_nearest", "does not name"),
    (RefusesWithoutHint, "test_an_unknown_setting_is_refused_by_name_and_told_the_nearest", "does not suggest"),
    (RefusesWithSecret, "test_an_unknown_setting_is_refused_by_name_and_told_the_nearest", "shows the credential"),
    (saying("text", END), "test_a_stream_keeps_the_grammar_of_chunks", "item 0 is not a Chunk but a str"),
    (saying(chunk(TEXT)), "test_a_stream_keeps_the_grammar_of_chunks", "choice 0 has no finish_reason"),
    (saying(END), "test_a_stream_keeps_the_grammar_of_chunks", "the chunks accumulate to nothing"),
    (saying(), "test_a_stream_keeps_the_grammar_of_chunks", "the chunks accumulate to nothing"),
    (saying(END, chunk("x")), "test_a_stream_keeps_the_grammar_of_chunks", "more of the answer for choice 0"),
    (saying(chunk("x"), END, END), "test_a_stream_keeps_the_grammar_of_chunks", "a second finish_reason for choice 0"),
    (saying(RAW), "test_a_stream_keeps_the_grammar_of_chunks", "chunk 0 has a line break in its `raw`"),
    (
        saying(Chunk(b"{}", {"choices": []})),
        "test_a_stream_keeps_the_grammar_of_chunks",
        "does not parse to its `data`",
    ),
    (saying(Chunk(b"{}{}", {})), "test_a_stream_keeps_the_grammar_of_chunks", "is not one JSON document"),
    (saying(Chunk("{}", {})), "test_a_stream_keeps_the_grammar_of_chunks", "is not bytes but str"),
    (saying(Chunk.of({})), "test_a_stream_keeps_the_grammar_of_chunks", "not an object with a list of `choices`"),
    (saying(Chunk.of({"choices": [], "error": "x"})), "test_a_stream_keeps_the_grammar_of_chunks", "holds an `error`"),
    (saying(Chunk.of({"choices": [{}]})), "test_a_stream_keeps_the_grammar_of_chunks", "not an object with an `index`"),
    (
        saying(Chunk.of({"choices": [{"index": 0, "delta": []}]})),
        "test_a_stream_keeps_the_grammar_of_chunks",
        "has a `delta` that is not an object",
    ),
    (
        saying(Chunk.of({"choices": [{"index": 0, "delta": {"content": 1}}]})),
        "test_a_stream_keeps_the_grammar_of_chunks",
        "has a `content` that is not a string",
    ),
    (saying(completion(TEXT)), "test_a_stream_keeps_the_grammar_of_chunks", "item 0 is not a Chunk but a Completion"),
    (saying(chunk("two"), chunk("one"), END), "test_a_stream_brings_the_whole_text_in_order", "says 'twoone'"),
    (saying(chunk(TEXT), END), "test_an_answer_that_is_not_streamed_is_one_completion", "one Completion, not Chunk"),
    (saying(), "test_an_answer_that_is_not_streamed_is_one_completion", "one Completion, not nothing"),
    (
        saying(completion("")),
        "test_an_answer_that_is_not_streamed_is_one_completion",
        "choices[0].message says nothing",
    ),
    (saying(completion("x")), "test_an_answer_that_is_not_streamed_is_one_completion", "the provider says 'x'"),
    (saying(Completion({})), "test_an_answer_that_is_not_streamed_is_one_completion", "with a list of `choices`"),
    (
        saying(Completion({"choices": [{}]})),
        "test_an_answer_that_is_not_streamed_is_one_completion",
        "choices[0] is not an object with a `message`",
    ),
    (
        saying(Completion({"choices": [{"message": {"content": "x"}}], "error": {"a": object()}})),
        "test_an_answer_that_is_not_streamed_is_one_completion",
        "choices[0] has no finish_reason",
    ),
    (ChangesBody, "test_the_request_is_not_changed", "chat() changes the body"),
    (Mixes, "test_many_requests_at_once_do_not_mix", "the provider says 'oneoneone"),
    (OneAtATime, "test_many_streams_are_open_at_once", "nothing happened for 0.3 s"),
    (Buffers, "test_many_streams_are_open_at_once", "nothing happened for 0.3 s"),
    (saying(), "test_many_streams_are_open_at_once", "ended where the endpoint had only paused"),
    (NoIterator, "test_many_streams_are_open_at_once", "its iterator needs aclose()"),
    (Leaves, "test_cancelling_a_stream_closes_its_connection", "the connection was still open 0.15 s later"),
    (Leaves, "test_closing_the_iterator_closes_the_connection", "the connection was still open 0.15 s later"),
    (Swallows, "test_cancelling_a_stream_closes_its_connection", "swallows its cancellation"),
    (Stubborn, "test_cancelling_a_stream_closes_its_connection", "goes on after it was cancelled"),
    (saying(), "test_cancelling_a_stream_closes_its_connection", "ended before it was cancelled"),
    (EndsQuietly, "test_a_stream_that_breaks_off_is_an_error", "passed for a good one"),
    (RaisesForeign, "test_an_error_is_classified_and_shows_no_credential", "raised OSError('connection refused')"),
    (Misclassifies, "test_an_error_is_classified_and_shows_no_credential", "expected rate_limited, not internal"),
    (OwnClass, "test_an_error_is_classified_and_shows_no_credential", "must be raised as RateLimited"),
    (SaysNothing, "test_an_error_is_classified_and_shows_no_credential", "has no message"),
    (ShowsKey, "test_an_error_is_classified_and_shows_no_credential", "the error shows the credential"),
    (ShowsKeyInCause, "test_an_error_is_classified_and_shows_no_credential", "traceback shows the credential"),
    (saying(), "test_an_error_is_classified_and_shows_no_credential", "passed for a good one"),
    (LetsTheParserOut, "test_garbage_is_an_error", "raised DecodeError("),
    (ExpectsObjects, "test_garbage_is_an_error", "raised TypeError("),
    (ExpectsText, "test_garbage_is_an_error", "raised TypeError("),
    (TakesAnything, "test_garbage_is_an_error", "passed for a good one"),
    (JamsAtGarbage, "test_garbage_is_an_error", "nothing happened for 0.3 s"),
    (CheckParses, "test_check_does_not_raise_at_garbage", "check() raised JSONDecodeError("),
    (CheckShowsKey, "test_check_tells_of_the_endpoint_without_raising", "what check() says shows the credential"),
    (CheckSaysNothing, "test_check_tells_of_the_endpoint_without_raising", "gives no detail"),
    (CheckSaysTooMuch, "test_check_tells_of_the_endpoint_without_raising", "more than one line"),
    (CheckReturnsBool, "test_check_tells_of_the_endpoint_without_raising", "returns bool, not Health"),
    (CheckRaises, "test_check_tells_of_the_endpoint_without_raising", "rate_limited: no"),
    (Forgets, "test_closing_closes_idle_connections", "the connection was still open 0.15 s later"),
    (ClosesOnce, "test_closing_twice_is_harmless", "closed already"),
]


def arguments(test: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    names = getattr(ProviderContract, test).__code__.co_varnames
    offered = {"monkeypatch": monkeypatch, "code": "rate_limited", "stream": True}
    return {name: value for name, value in offered.items() if name in names}


@pytest.mark.parametrize(
    ("provider", "test", "told"), FAULTS, ids=[f"{fault[0].__name__}-{at}" for at, fault in enumerate(FAULTS)]
)
def test_each_fault_is_found_by_its_test(provider, test, told, monkeypatch):
    faulty = type("Faulty", (Contract,), {"plugin": provider})()
    STUBBORN.clear()
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        getattr(faulty, test)(**arguments(test, monkeypatch))
    assert told in str(caught.value)


def test_what_garbage_it_was_is_told():
    faulty = type("Faulty", (Contract,), {"plugin": LetsTheParserOut})()
    with pytest.raises(pytest.fail.Exception) as caught:
        faulty.test_garbage_is_an_error(stream=True)
    assert caught.value.__notes__ == [f"The endpoint has said {reprlib.repr(GARBAGE['a page'])}."]


def test_every_standard_test_finds_some_fault():
    standard = {name for name in vars(ProviderContract) if name.startswith("test_")}
    found = {test for _, test, _ in FAULTS}
    assert standard - found == {"test_cancelling_a_request_that_meets_silence_closes_its_connection"}


@pytest.mark.parametrize("stream", [True, False])
def test_a_connection_left_open_in_silence_is_found(stream):
    faulty = type("Faulty", (Contract,), {"plugin": Leaves})()
    with pytest.raises(pytest.fail.Exception, match="the connection was still open"):
        faulty.test_cancelling_a_request_that_meets_silence_closes_its_connection(stream=stream)


@pytest.mark.parametrize("test", ["cancelling_a_stream_closes_its", "closing_the_iterator_closes_the"])
def test_a_connection_that_is_closed_late_each_time_is_found(test, monkeypatch):
    monkeypatch.setattr(situations, "_TRIES", 2)
    faulty = type("Faulty", (Contract,), {"plugin": Dawdles, "patience": 10.0})()
    with pytest.raises(pytest.fail.Exception, match=r"closed 0\.\d+ s later at best, not within 0\.1 s"):
        getattr(faulty, f"test_{test}_connection")()


def test_a_connection_that_is_closed_late_once_is_the_machines_fault():
    goodbyes = itertools.chain([1.05 * situations.PROMPT], itertools.repeat(0.0))
    once = type("Once", (Dawdles,), {"goodbyes": goodbyes})
    lucky = type("Lucky", (Contract,), {"plugin": once, "patience": 10.0})()
    lucky.test_closing_the_iterator_closes_the_connection()
    assert next(goodbyes) == 0.0, "the late one was tried"


def test_overriding_a_standard_test_without_saying_why_is_refused():
    overriding = {"test_closing_twice_is_harmless": lambda _: None}
    with pytest.raises(TypeError, match="overrides the standard test test_closing_twice_is_harmless without saying"):
        type("Silenced", (Contract,), overriding)
    excused = {"test_closing_twice_is_harmless": "the library closes itself"}
    type("Excused", (Contract,), {**overriding, "exempt": excused})


@pytest.mark.parametrize(
    ("exempt", "told"),
    [
        ({"pasing": "no"}, "names 'pasing', which the contract does not have; did you mean 'pausing'?"),
        ({"answering": "no"}, "names 'answering'"),
        ({"pausing": " "}, "gives no reason for 'pausing'"),
    ],
)
def test_an_exemption_names_what_there_is_and_a_reason(exempt, told):
    with pytest.raises(TypeError) as caught:
        type("Wrong", (Contract,), {"exempt": exempt})
    assert told in str(caught.value)


STRANGER = """
from contextlib import asynccontextmanager
from deltabus.testing import Case, ProviderContract
from deltabus_echo import EchoProvider

class TestStranger(ProviderContract):
    plugin = EchoProvider
    exempt = {
        "closed": "no connection",
        "silent": "never silent",
        "failing": "never fails",
        "test_closing_twice_is_harmless": "closed once",
    }

    def settings(self):
        return {"interval": 0}

    @asynccontextmanager
    async def answering(self):
        yield Case(provider=self._make(), request={"messages": [{"role": "user", "content": "a b"}]}, text="a b")
"""


def test_what_is_missing_fails_and_what_is_exempt_is_skipped_with_its_reason(pytester):
    pytester.makepyfile(STRANGER)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rs")
    # Missing: pausing (3 tests), breaking_off (1), garbage (3). Exempt: closing twice, silence twice, errors and check.
    # Without files and other calls: 10 more.
    result.assert_outcomes(failed=7, skipped=16, passed=11)
    result.stdout.fnmatch_lines(
        [
            "*define pausing(), or give in `exempt` the reason why it does not apply*",
            "*define breaking_off(), or give in `exempt`*",
            "*define garbage(), or give in `exempt`*",
            "*SKIPPED*silent: never silent*",
        ]
    )


def test_codes_that_were_forgotten_fail():
    forgotten = type("Forgotten", (Contract,), {"codes": ()})()
    with pytest.raises(pytest.fail.Exception, match="`codes` is empty"):
        forgotten.test_an_error_is_classified_and_shows_no_credential(code="", stream=True)


def test_a_provider_that_does_not_stream_skips_the_tests_of_streams():
    class Whole(Good):
        capabilities = type(Good.capabilities)(streaming=False)

    whole = type("Whole", (Contract,), {"plugin": Whole})()
    with pytest.raises(pytest.skip.Exception, match="does not stream"):
        whole.test_a_stream_keeps_the_grammar_of_chunks()
    whole.test_an_answer_that_is_not_streamed_is_one_completion()


def test_names_of_the_kit_are_imported_when_they_are_used():
    from deltabus import testing

    assert {name for name, _ in itertools.groupby(testing.__all__) if getattr(testing, name)} == set(testing.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        testing.nothing  # noqa: B018
