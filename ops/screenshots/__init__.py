"""The pictures of the README, made of what really happens on a bus under load.

    make screenshots                                    top.svg, in this folder
    PYTHONPATH=ops python -m screenshots --seconds 5    in less time, with a shorter history

A private Redis, `deltabus worker` processes, the echo provider, some hundred streams on three queues, a few failures;
and `deltabus top`, drawn by what draws it on a terminal.
"""
