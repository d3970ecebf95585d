"""The shows: one fault each, on many streams, with a table of figures at the end.

    make shows                                 all four, at full size
    make shows SHOW=crash                      one of them
    PYTHONPATH=ops python -m shows freeze --tasks 50 --times 3

| show    | what is done                                    | what must come out of it                          |
| ------- | ----------------------------------------------- | ------------------------------------------------- |
| crash   | `kill -9` of the only worker, and a new one      | all streams run again within 15 s, all texts right |
| freeze  | SIGSTOP for 30 s, SIGCONT                        | no stale write; the frozen worker goes on working  |
| restart | Redis is restarted in the middle of the streams  | no gap, nothing doubled, none failed, none rerun   |
| rolling | SIGTERM to one process after the other           | nothing failed, nothing rerun that could finish    |

| module | what it is                                                    |
| ------ | ------------------------------------------------------------- |
| stage  | a Redis, workers, streams with a subscriber each, an observer |
| acts   | the four shows                                                |
| review | what came out: figures, and what is wrong with them           |

Workers are `deltabus worker` with its defaults, as processes; the echo provider answers.
"""
