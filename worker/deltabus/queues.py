"""RQ queues whose maintenance does not fail what was taken and never started."""

from __future__ import annotations

from rq.intermediate_queue import IntermediateQueue
from rq.queue import Queue
from rq.worker.base import BaseWorker

from deltabus.jobs import BusJob


class BusQueue(Queue):
    """A queue of `BusJob`s."""

    job_class = BusJob

    @property
    def intermediate_queue(self) -> IntermediateQueue:
        """The list of jobs that were taken and have not yet started."""
        return _Intermediate(self.key, connection=self.connection)


class _Intermediate(IntermediateQueue):
    def cleanup(self, worker: BaseWorker, queue: Queue) -> None:
        """Nothing. RQ would fail what is stuck here, after a minute; `recovery` requeues it, sooner than that."""
