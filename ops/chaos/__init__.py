"""The chaos run: a load of tasks under faults, everything that happens on record, and a check of the record.

    make chaos TASKS=5000 SECONDS=120
    make chaos TOPOLOGY=sentinel        or cluster; see `topology`

It ends with a table, or with `JSON=1` with the same as JSON, and fails where any rule of `checker` is broken; then the
record and the workers' logs stay in a folder that it names. `SEED=N` repeats the plan of a run: its tasks,
and the order of its faults, though not the moment in which each of them strikes.

A recovery is the time from a kill until a task that was running there is running again, or over. It begins with the
dead worker's lease (`fleet.LEASE`). It is longer where its next worker dies, too, or where Redis is away in between:
then all leases have run out, and each worker is given one more to come back, before anybody is taken for dead.

| module      | what it is                                                                            |
| ----------- | ------------------------------------------------------------------------------------- |
| history     | what happened: promises, provider calls, messages, logs, RQ's records, incidents        |
| checker     | what must hold of a history; every break of it is a violation                           |
| summary     | the table at the end                                                                  |
| plan        | the tasks of a run and how each may end, all from the seed                              |
| producer    | puts the tasks on the bus, by Python, by stock RQ and by plain commands; cancels some   |
| provider    | an OpenAI-compatible server that fails as planned, and keeps a record of what it sent   |
| subscribers | an observer of every channel, and followers who come late and drop                     |
| proxy       | stands between one process and Redis: stops at named points, cuts, holds back           |
| fleet       | the worker processes                                                                  |
| topology    | one server, a master that Sentinels move, or a Cluster                                  |
| sentinels, nodes | their processes                                                                   |
| faults      | kills, freezes, partitions, drains, what is done to Redis, by the seed                  |
| run         | all of it together; the command line                                                  |

Production code knows nothing of it: workers are `deltabus worker`, and what is done to them is done with
signals and sockets.
"""
