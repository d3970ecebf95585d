"""The fuzz run: inputs made worse or by chance, against the parsers and a running worker, each with an end of its own.

    make fuzz                           a hundred thousand inputs of all kinds
    make fuzz INPUTS=3000               a short run
    make fuzz KIND=envelopes SEED=7     one kind; the seed repeats the inputs of a run
    make fuzz KIND=envelopes SEED=7 ONLY=1234    one input, shown

An input must come to a result or to an error of `deltabus.errors`, within a time limit; a job to exactly one end, in
its log and in RQ's records alike. Any other exception, a traceback in the worker's log, a worker that has ended or
does not answer the next good task, and memory that grows, is a violation: the run tells the command that repeats it,
and fails. `JSON=1` prints all of it as JSON.

Each input is made from the seed, its kind and its number alone. Good examples (what is recorded under `tests/`, the
protocol's own) are changed in their structure: types swapped, fields dropped, doubled and renamed, nests, numbers and
texts at which parsers stumble; then in their bytes; a part is pure chance. Each kind is tried in a process of its own,
watched from outside, so that a hang and a crash of the interpreter count as well.

| module     | what it is                                                                           |
| ---------- | ------------------------------------------------------------------------------------ |
| corpus     | good examples of every kind                                                          |
| mutation   | makes them worse                                                                     |
| subject    | what a kind is                                                                       |
| parsers    | kinds: envelopes; what Redis holds of a task                                         |
| answers    | kinds: answers of providers, cut anywhere; files, lists, errors, headers, forms      |
| configs    | kinds: configuration files, environments                                             |
| followers  | kind: what subscribers meet on channels, in logs and records                         |
| plant      | a private Redis and a worker                                                         |
| jobs       | kinds: job hashes, payloads, against the worker                                      |
| commands   | kind: what is published to the worker                                                |
| neighbours | kind: keys of wrong types                                                            |
| trial      | one kind in a process of its own, watched                                            |
| tally      | what became of inputs                                                                |
| summary    | the table at the end                                                                 |
| run        | all of it together; the command line                                                 |
"""
