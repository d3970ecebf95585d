"""A trace on the terminal: one task through a producer process, a worker process and a provider that fails twice.

    make trace
    PYTHONPATH=ops python -m tracetree

| module   | what it is                                                              |
| -------- | ----------------------------------------------------------------------- |
| receiver | takes spans over OTLP, as any collector does, and keeps them            |
| tree     | spans as a tree                                                         |
| scene    | a Redis, a provider, `deltabus enqueue`, `deltabus worker`, as processes |
"""
