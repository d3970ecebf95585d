"""The chaos run: a load of tasks under faults, everything that happens on record, and a check of the record.

    make chaos TASKS=5000 SECONDS=120

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
| faults      | kills, freezes, partitions, drains, restarts of Redis, by the seed                      |
| run         | all of it together; the command line                                                  |

Production code knows nothing of it: workers are `deltabus worker`, and what is done to them is done with
signals and sockets.
"""
