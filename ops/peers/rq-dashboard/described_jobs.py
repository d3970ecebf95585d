"""Settings of rq-dashboard for workers that run JSON jobs: `rq-dashboard --json --config described_jobs`.

`--json` reaches queues and jobs, but not workers: version 0.9.0 unpickles the job that a worker runs, to show its
arguments. So its page of workers is an error 500 while any worker runs a JSON job, stock RQ's workers as ours.
Here, that page shows what a job is described as instead, which neither unpickles anything nor shows a prompt.
"""

from __future__ import annotations

from typing import Any

import rq_dashboard.web
from rq import Worker
from rq.job import Job


class DescribedJob(Job):
    """A job that is called what it is described as: `deltabus.tasks.chat`."""

    def get_call_string(self) -> str | None:
        return self.description


class DescribedWorker(Worker):
    """A worker as the dashboard looks at it."""

    @classmethod
    def all(cls, *args: Any, **kwargs: Any) -> list[Worker]:
        return super().all(*args, **{**kwargs, "job_class": DescribedJob})


rq_dashboard.web.Worker = DescribedWorker
