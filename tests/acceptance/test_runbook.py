"""ops/runbook.md at night: each symptom is put on, and its commands are typed as they stand, and answer as it says."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import warm
from documents import ROOT, Reader
from night import ENDLESS, Night, begun, sections
from nightscenes import SCENES
from processes import DELTABUS, Background, environ

from chaos.nodes import PATIENT, Nodes
from deltabus import Bus
from deltabus.settings import load

SECTIONS = sections()

#: Entries whose commands ask for keys, channels and nodes, and that a task which runs is symptom enough for.
ANYWHERE = (
    *("How to type this", "Which worker runs a task", "What a task has said", "Subscribers get nothing"),
    *("A subscriber is too slow", "Redis is slow", "Memory grows", "A task hangs"),
)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    with begun(tmp_path_factory.mktemp("night")) as night:
        yield night


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_symptom_is_what_its_commands_say(night: Night, heading: str) -> None:
    night.tidy()
    with SCENES.get(heading, contextlib.nullcontext)(*([night] if heading in SCENES else [])):
        for block in SECTIONS[heading]:
            night.reader.run(block)


def test_workers_have_here_what_the_files_of_deploy_give_them(night: Night) -> None:
    deploy = ROOT / "ops" / "deploy"
    given = "".join((deploy / name).read_text(encoding="utf-8") for name in ("Dockerfile", "compose.yaml"))
    given += (deploy / "systemd" / "deltabus-worker@.service").read_text(encoding="utf-8")
    assert {*re.findall(r"\b(DELTABUS_\w+)[=:]", given)} == night.environ.keys()


@pytest.mark.timeout(900)
def test_the_commands_hold_on_a_cluster(tmp_path: Path) -> None:
    """As they stand. (Behind Sentinels is one server, once it is found, which tests/faults sees to.)"""
    with Nodes(PATIENT) as servers, Reader(tmp_path) as reader, warm.programs(RQ_KEY_PREFIX="{rq}") as programs:
        variables = {"DELTABUS_REDIS_URL": servers.url, "RQ_KEY_PREFIX": "{rq}", "DELTABUS_DRAIN_TIMEOUT": "0"}
        reader.environ |= {**variables, "PATH": f"{programs}{os.pathsep}{reader.environ['PATH']}"}
        settings = load(environ=variables)
        with (
            Background([*DELTABUS, "worker", "chat", "file"], folder=tmp_path, environ=environ(**variables)) as worker,
            Bus(settings=settings) as bus,
            closing(bus.chat(messages="hello", **ENDLESS).events()) as events,
        ):
            worker.wait_for("worker started")
            task = next(events).task
            reader.environ |= {"TASK": task, "PID": str(worker.process.pid)}
            for block in (block for heading in ANYWHERE for block in SECTIONS[heading]):
                if block.language == "sh":  # several nodes answer in another order
                    reader.run(block)


def test_every_scene_has_its_entry() -> None:
    assert SCENES.keys() <= SECTIONS.keys()
