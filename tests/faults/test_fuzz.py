"""The fuzz run finds what it is there to find, goes on after it, and says how to see it again."""

from __future__ import annotations

import json

import pytest
from stumblers import Dies, Grows, Hangs, Raises, Sound

from fuzz import corpus, run, trial
from fuzz.jobs import Jobs
from fuzz.mutation import Mutator
from fuzz.summary import summarise, table


def tried(subject, count=6):
    return trial.run(subject, "7", range(count), lambda *_: None)


def test_results_and_refusals_are_counted():
    tally = tried(Sound)
    assert (tally.inputs, dict(tally.outcomes), tally.violations) == (6, {"ok": 3, "invalid_request": 3}, [])


@pytest.mark.parametrize(
    ("subject", "index", "what", "words"),
    [
        (Raises, 3, "crash", "KeyError: 'nothing'"),
        (Hangs, 2, "hang", "in attempt"),
        (Dies, 2, "crash", "the process ended with -6"),
    ],
)
def test_what_stumbles_is_told_with_its_input_and_the_rest_is_tried_all_the_same(subject, index, what, words):
    tally = tried(subject)
    assert tally.inputs == 6
    assert tally.outcomes[what] == 1
    (violation,) = tally.violations
    assert (violation.index, violation.what) == (index, what)
    assert words in violation.detail
    told = table(summarise([tally], "7", 1.0))
    assert f"make fuzz SEED=7 KIND='{subject.kind}' ONLY={index}" in told
    assert "1 inputs broke a rule" in told


def test_memory_that_grows_is_a_leak():
    tally = tried(Grows, trial.FEW)
    assert [violation.what for violation in tally.violations] == ["leak"]


def test_an_input_is_made_from_seed_kind_and_number_alone():
    one, other = object.__new__(Jobs), object.__new__(Jobs)
    one.seed, other.seed = "1", "1"
    assert [one.make(index) for index in range(50)] == [other.make(index) for index in reversed(range(50))][::-1]
    other.seed = "2"
    assert [one.make(index)[1] for index in range(50)] != [other.make(index)[1] for index in range(50)]


def test_good_examples_are_not_changed_by_what_is_made_of_them(monkeypatch):
    from random import Random

    before = json.dumps([corpus.CALLS, corpus.OPTIONS, corpus.DOCUMENTS, corpus.events()])
    for number in range(300):
        mutator = Mutator(Random(number))
        mutator.encode(mutator.document(mutator.random.choice(corpus.CHATS)))
    assert json.dumps([corpus.CALLS, corpus.OPTIONS, corpus.DOCUMENTS, corpus.events()]) == before


def test_a_run_prints_a_table_or_json_and_fails_where_something_broke(monkeypatch, capsys):
    monkeypatch.setattr(run, "SUBJECTS", (Sound, Raises))
    assert run.main(["--inputs", "8", "--seed", "1", "--json"]) == 1
    figures = json.loads(capsys.readouterr().out)
    assert figures["kinds"]["sound"]["outcomes"] == {"ok": 2, "invalid_request": 2}
    assert run.main(["--inputs", "4", "--seed", "1", "--kind", "sound"]) == 0
    assert "4 inputs in " in capsys.readouterr().out
    assert run.main(["--seed", "1", "--kind", "raises", "--only", "3"]) == 1
    assert "KeyError" in capsys.readouterr().out
