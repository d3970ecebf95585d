"""The worker: `AsyncWorker`, for `deltabus worker` and for `rq worker -w deltabus.worker.AsyncWorker`.

One `AsyncWorker` is one RQ worker. Its working life is a `shift`: `intake` takes jobs, each runs in a `slot`, `vigil`
holds the leases and hears commands, `ledger` keeps RQ's records. `recovery` gives back what dead workers ran,
`reconciler` what nobody knows any more.
"""

from deltabus.worker.asyncworker import AsyncWorker

__all__ = ["AsyncWorker"]
