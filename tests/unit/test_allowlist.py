"""Which functions a worker runs."""

from __future__ import annotations

import pytest

from deltabus import tasks
from deltabus.allowlist import AllowList
from deltabus.errors import ConfigError, UnknownTask


def test_all_that_are_installed_unless_some_are_named():
    assert AllowList().task("deltabus.tasks.embeddings") is tasks.embeddings
    few = AllowList(functions=("chat", "deltabus.tasks.file"))
    assert few.task("deltabus.tasks.chat") is tasks.chat
    assert few.task("deltabus.tasks.file") is tasks.file
    with pytest.raises(UnknownTask, match="an operator can add it to `functions`"):
        few.task("deltabus.tasks.embeddings")


@pytest.mark.parametrize("allow", [AllowList(), AllowList(functions=("chat",))])
def test_what_nobody_has_installed_is_never_run(allow):
    with pytest.raises(UnknownTask, match="is not registered on this worker"):
        allow.task("os.system")


def test_a_function_that_is_named_and_not_there_is_told_of():
    AllowList(functions=("chat", "deltabus.tasks.file")).check()
    with pytest.raises(ConfigError, match=r"`functions` names `chta`.*did you mean `chat`"):
        AllowList(functions=("chta",)).check()
