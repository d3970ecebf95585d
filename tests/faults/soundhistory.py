"""A history of a chaos run in which all is well, and the means to spoil it."""

from __future__ import annotations

import json
from typing import Any

from chaos.history import Call, Exit, Following, History, Incident, Job, Message, Promise, Watch
from deltabus import keys


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
    """Much went wrong and nothing amiss: a worker was lost, Redis crashed, the observer was cut off."""
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
        incidents=[Incident(fault="crash", at=15.0, until=22.0)],
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
        Following(task="moved", after=None, messages=logs["moved"][:1], since=20.0, until=23.0, away=True),
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
