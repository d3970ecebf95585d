"""Every Redis key and channel of deltabus: its name, its type, how long it lives.

The hash tag `{task}` keeps the keys of one task in one cluster slot. RQ's own keys
(`rq:job:<id>`, `rq:queue:<name>`, …) are RQ's business and stay under RQ's prefix, `<rq>`. What is ours and touched
together with them is there as well: with a hash tag in that prefix, it is all in one slot.

| name                         | type    | lives                                                     |
| ---------------------------- | ------- | --------------------------------------------------------- |
| `deltabus:{<task>}:log`      | stream  | renewed while the task runs, `result_ttl` after the seal  |
| `deltabus:{<task>}:cancel`   | string  | `CANCEL_TTL`, deleted by the seal                         |
| `deltabus:{<task>}:events`   | channel | -                                                         |
| `deltabus:cancel`            | channel | task ids whose cancel key has just been set               |
| `deltabus:{<task>}:files`    | hash    | while the task has files at a provider, at most `FILES_TTL` |
| `deltabus:files`             | sorted set | tasks that have some, by the time of the newest        |
| `<rq>:deltabus:workers`      | sorted set | worker names by the time at which their leases run out |
| `<rq>:deltabus:reconciler`   | string  | name of the worker that reconciles, while it does         |
| `deltabus:results:<queue>`   | channel | every terminal event of the queue's tasks                 |
| `deltabus:blob:<id>`         | list    | chunks of a blob, for as long as its writer says          |
"""

from __future__ import annotations

import re
from typing import Final

from deltabus.errors import InvalidRequest

#: Prefix of every key and channel that is ours.
PREFIX: Final = "deltabus"

#: The id of a log's terminal entry: the largest integer that every language's JSON numbers hold.
SEAL: Final = "9007199254740991-0"

#: Field of a log entry that holds the event's JSON: the very bytes that are published.
EVENT_FIELD: Final = "event"

#: Field of RQ's hash of a worker: how many tasks it runs at once.
SLOTS_FIELD: Final = "deltabus_slots"

#: Field of RQ's hash of a worker: where its process number means something, as `neighbour.home` says.
HOME_FIELD: Final = "deltabus_home"

#: Channel on which a cancel is announced; the message is the task id.
CANCEL_CHANNEL: Final = f"{PREFIX}:cancel"

#: Tasks that have put files at a provider, scored by Unix time.
FILES: Final = f"{PREFIX}:files"

#: Seconds after which nobody tries any more to delete a file that was meant to be temporary.
FILES_TTL: Final = 7 * 24 * 3600

#: Queue of tasks with files, unless another is named: a large upload is not to keep a chat waiting.
FILE_QUEUE: Final = "file"

#: Seconds for which a cancel that nobody has acted upon is remembered.
CANCEL_TTL: Final = 24 * 3600

#: RQ's own rule for job ids (rq.job.JOB_ID_PATTERN), with a length limit of ours; ids of blobs follow it, too.
TASK_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")

#: Channels that a task may name to be answered on. The worker publishes there with its own rights, so those are left
#: out whose messages others act upon: ours, and RQ's commands to workers (`rq:pubsub:<worker>`).
REPLY_CHANNEL: Final = re.compile(rf"(?!{PREFIX}:)(?!.*:pubsub:)[^\x00-\x20\x7f]{{1,512}}")


def check_id(id: object, param: str) -> str:
    """The id of a task or a blob, as a program gives it.

    Raises:
        InvalidRequest: it cannot be one; a number and a `UUID` are none, but their texts are.
    """
    if not (isinstance(id, str) and TASK_ID.fullmatch(id)):
        raise InvalidRequest("must be a string of 1 to 128 letters, digits, `_` and `-`", param=param)
    return id


def workers(rq_prefix: str) -> str:
    """Leases of workers: names, scored by the Unix time at which they run out."""
    return f"{rq_prefix}:{PREFIX}:workers"


def reconciler(rq_prefix: str) -> str:
    """The worker whose turn it is to look for what belongs to nobody."""
    return f"{rq_prefix}:{PREFIX}:reconciler"


def log(task: str) -> str:
    """Stream of the task's events."""
    return f"{PREFIX}:{{{task}}}:log"


def cancel(task: str) -> str:
    """Stored intent to cancel; its value is the reason, perhaps empty."""
    return f"{PREFIX}:{{{task}}}:cancel"


def files(task: str) -> str:
    """What the task has put at providers for the length of an attempt: unique file names, and where they are."""
    return f"{PREFIX}:{{{task}}}:files"


def events(task: str) -> str:
    """Channel that carries the log's entries as they are appended."""
    return f"{PREFIX}:{{{task}}}:events"


def results(queue: str) -> str:
    """Channel that carries every terminal event of tasks from this queue."""
    return f"{PREFIX}:results:{queue}"


def blob(blob_id: str) -> str:
    """List of the blob's chunks, in order."""
    return f"{PREFIX}:blob:{blob_id}"


def reply_channel(name: str | None) -> str:
    """The channel that a task names to be answered on; empty: none, or one that it may not name.

    Asked wherever one is used: an envelope that is refused, or a note that somebody has forged, can hold anything.
    """
    return name if name and REPLY_CHANNEL.fullmatch(name) else ""
