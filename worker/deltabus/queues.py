"""RQ queues whose maintenance loses nothing: what was taken and never started goes back to the front."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from rq.intermediate_queue import IntermediateQueue
from rq.queue import Queue
from rq.utils import now
from rq.worker.base import BaseWorker

from deltabus.jobs import BusJob
from deltabus.scripts import PUT_BACK

#: A job that has been in an intermediate list for this long, and does not run, was dropped by a dying worker.
STUCK: Final = timedelta(seconds=10)


class BusQueue(Queue):
    """A queue of `BusJob`s."""

    job_class = BusJob

    @property
    def intermediate_queue(self) -> IntermediateQueue:
        """The list of jobs that were taken and have not yet started."""
        return _Intermediate(self.key, connection=self.connection)


class _Intermediate(IntermediateQueue):
    def cleanup(self, worker: BaseWorker, queue: Queue) -> None:
        """Requeue what is stuck. RQ fails such jobs, though they never ran."""
        put_back = self.connection.register_script(PUT_BACK.source)
        for job_id in self.get_job_ids():
            if job_id in queue.started_job_registry or self.set_first_seen(job_id):
                continue
            seen = self.get_first_seen(job_id)
            if seen is not None and now() - seen > STUCK:
                put_back(keys=[self.key, self.queue_key, self.get_first_seen_key(job_id)], args=[job_id])
