"""RQ queues that several threads may use, and whose maintenance leaves alone what was taken and never started."""

from __future__ import annotations

from typing import Final

from rq.intermediate_queue import IntermediateQueue
from rq.queue import Queue
from rq.registry import ReadyJobRegistry
from rq.worker.base import BaseWorker

from deltabus.jobs import BusJob

#: How often dependents are tried to be enqueued, before they are left to `recovery`.
TRIES: Final = 100


class BusQueue(Queue):
    """A queue of `BusJob`s."""

    job_class = BusJob

    @property
    def intermediate_queue(self) -> IntermediateQueue:
        """The list of jobs that were taken and have not yet started."""
        return _Intermediate(self.key, connection=self.connection)

    def enqueue_ready_jobs_by_queue(self, job_ids_by_queue_name: dict[str, list[str]]) -> None:
        """As RQ does it, and again where others, here or elsewhere, were at the registry in the same moment.

        RQ gives way to them, and leaves the jobs to its maintenance, minutes later.
        """
        waiting = job_ids_by_queue_name
        for _ in range(TRIES):
            super().enqueue_ready_jobs_by_queue(waiting)
            waiting = {name: ids for name, every in waiting.items() if (ids := self._still_ready(name, every))}
            if not waiting:
                return

    def _still_ready(self, name: str, ids: list[str]) -> list[str]:
        key = ReadyJobRegistry.key_template.format(name)
        return [job_id for job_id in ids if self.connection.zscore(key, job_id) is not None]


class _Intermediate(IntermediateQueue):
    def cleanup(self, worker: BaseWorker, queue: Queue) -> None:
        """Nothing. RQ would fail what is stuck here, after a minute; `recovery` requeues it, sooner than that."""
