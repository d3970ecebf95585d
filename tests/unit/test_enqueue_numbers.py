"""Numbers that JSON does not have: refused where a task is enqueued, as no encoder of the worker's side sees them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from deltabus.enqueue import Order
from deltabus.errors import InvalidRequest
from deltabus.settings import Settings


def order(*requests: dict[str, Any], **more: Any) -> Order:
    contents = [{"request": {"messages": "hi", **request}, **more} for request in requests]
    return Order("deltabus.tasks.chat", contents, queue="chat", task=None, settings=Settings())


@pytest.mark.parametrize(
    ("request_", "path", "value"),
    [
        ({"temperature": math.nan}, "request.temperature", "nan"),
        ({"top_p": -math.inf}, "request.top_p", "-inf"),
        ({"stop": None, "logit_bias": {"50256": math.inf}}, "request.logit_bias.50256", "inf"),
        ({"tools": [{}, {"limits": (1.0, math.nan)}]}, "request.tools[1].limits[1]", "nan"),
    ],
)
def test_a_number_that_json_does_not_have_is_refused_by_its_name(
    request_: dict[str, Any], path: str, value: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"is {value}, which JSON does not have") as caught:
        order(request_)
    assert caught.value.param == path


def test_of_several_requests_it_is_said_which_one() -> None:
    with pytest.raises(InvalidRequest, match=r"request 1 of 2, counted from 0: `request\.temperature` is nan"):
        order({}, {"temperature": math.nan})


def test_a_deadline_that_is_none_is_refused_too() -> None:
    with pytest.raises(InvalidRequest, match="`deadline` is nan"):
        order({}, deadline=math.nan)


def test_null_and_its_word_are_as_good_as_ever() -> None:
    order({"stop": None, "temperature": 0.5, "user": "null"})
