"""File objects in every server's words become those that OpenAI documents."""

from __future__ import annotations

from typing import Any

import pytest

from deltabus.provider import ProviderProtocol
from deltabus_openai import fileobject


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        (1700000000, 1700000000),
        (1700000000.9, 1700000000),
        ("1700000000", 1700000000),
        ("2023-11-14T22:13:20Z", 1700000000),
        ("2023-11-14T22:13:20.123456789Z", 1700000000),
        ("2023-11-15T01:13:20.5+03:00", 1700000000),
        ("2023-11-14T22:13:20.123456789+00:00", 1700000000),
        (None, None),
        ("soon", "soon"),
        ("²", "²"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_moment_is_in_unix_seconds(moment: Any, seconds: Any) -> None:
    assert fileobject.of({"id": "a", "created_at": moment})["created_at"] == seconds


def test_capital_keys_become_small_ones_and_unknown_ones_stay() -> None:
    file = fileobject.of(
        {"ID": "a", "CreatedAt": "2023-11-14T22:13:20Z", "Filename": "b", "x_new": 1, "Object": "file"}
    )
    assert file == {
        "id": "a",
        "created_at": 1700000000,
        "filename": "b",
        "x_new": 1,
        "object": "file",
        "status": "processed",
    }
    both = fileobject.of({"id": "a", "Id": "b"})
    assert (both["id"], both["Id"]) == ("a", "b")


@pytest.mark.parametrize("answer", [None, [], "file-1", {}, {"id": None}, {"id": {}}, {"object": "file"}])
def test_what_is_no_file_is_an_error(answer: Any) -> None:
    with pytest.raises(ProviderProtocol):
        fileobject.of(answer)


@pytest.mark.parametrize(
    "answer",
    [
        {"object": "list", "data": [{"id": "a"}, {"id": "b"}]},
        {"Object": "list", "Data": [{"Id": "a"}, {"Id": "b"}]},
        {"files": [{"id": "a"}, {"id": "b"}]},
        [{"id": "a"}, {"id": "b"}],
    ],
    ids=["openai", "localai", "files", "a list"],
)
def test_a_list_is_a_page_whatever_the_shape(answer: Any) -> None:
    page = fileobject.page(answer, {})
    assert [file["id"] for file in page["data"]] == ["a", "b"]
    assert {key: page[key] for key in ("object", "first_id", "last_id", "has_more")} == {
        "object": "list",
        "first_id": "a",
        "last_id": "b",
        "has_more": False,
    }


def test_an_empty_list_may_be_null() -> None:
    assert fileobject.page({"Object": "list", "Data": None}, {})["data"] == []


@pytest.mark.parametrize("answer", [None, "x", {}, {"data": 1}, {"data": ["a"]}, {"ok": True}])
def test_what_is_no_list_is_an_error(answer: Any) -> None:
    with pytest.raises(ProviderProtocol):
        fileobject.page(answer, {})


def test_a_server_that_says_whether_there_is_more_is_believed() -> None:
    data = [{"id": "a"}, {"id": "b"}]
    page = fileobject.page({"data": data, "has_more": True}, {"limit": 1, "after": "b"})
    assert ([file["id"] for file in page["data"]], page["has_more"]) == (["a", "b"], True)


@pytest.mark.parametrize(
    ("asked", "ids", "more"),
    [
        ({}, "abc", False),
        ({"limit": 2}, "ab", True),
        ({"limit": 3}, "abc", False),
        ({"after": "a"}, "bc", False),
        ({"after": "c"}, "", False),
        ({"after": "gone"}, "", False),
        ({"order": "desc"}, "cba", False),
        ({"order": "desc", "after": "c", "limit": 1}, "b", True),
        ({"purpose": "batch"}, "b", False),
    ],
)
def test_from_a_server_without_pages_the_page_is_picked_out(asked: dict[str, Any], ids: str, more: bool) -> None:
    data = [
        {"id": name, "created_at": place, "purpose": "batch" if name == "b" else "vision"}
        for place, name in enumerate("abc")
    ]
    page = fileobject.page({"data": data}, asked)
    assert ("".join(file["id"] for file in page["data"]), page["has_more"]) == (ids, more)


@pytest.mark.parametrize(
    ("answer", "deleted"),
    [
        ({"id": "a", "object": "file", "deleted": True}, True),
        ({"Id": "a", "Object": "file", "Deleted": True}, True),
        ({"id": "a", "deleted": False}, False),
        ({}, True),
        (None, True),
    ],
)
def test_a_deletion_says_of_which_file_and_whether(answer: Any, deleted: bool) -> None:
    assert fileobject.deletion(answer, "a") == {"id": "a", "object": "file", "deleted": deleted}


@pytest.mark.parametrize(("said", "size"), [("100000", 100_000), (100_000, 100_000), ("many", "many"), (None, None)])
def test_a_size_may_be_written_as_a_string(said: Any, size: Any) -> None:
    assert fileobject.of({"id": "a", "bytes": said})["bytes"] == size
