"""What ops/deploy tells systemd, Docker and Kubernetes fits the worker: its times, ports, files and keys."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from deltabus import settings
from deltabus.cli.production import HAND_BACK
from deltabus.monitoring.catalogue import METRICS
from deltabus.monitoring.health import START_LIMIT
from deltabus.settings import Settings
from deltabus.supervisor import GRACE

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed: make test installs it")

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "ops" / "deploy"
DEFAULTS = Settings()

#: Seconds that a worker needs from SIGTERM until it is gone, alone or under its supervisor.
NEEDED = DEFAULTS.drain_timeout + max(GRACE, HAND_BACK)

OBJECTS: dict[str, Any] = {
    document["kind"]: document
    for path in (DEPLOY / "kubernetes").rglob("*.yaml")
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    if document["kind"] != "Kustomization"
}
POD = OBJECTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def unit() -> dict[str, list[str]]:
    """Settings of the service, each with its values."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / "deltabus-worker@.service").read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def environment(text: str) -> dict[str, str]:
    """Variables of a Dockerfile."""
    words = [word for line in re.findall(r"^ENV (.*)$", text, re.MULTILINE) for word in shlex.split(line)]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def test_nobody_kills_a_worker_that_drains() -> None:
    given = {
        "Kubernetes": POD["terminationGracePeriodSeconds"],
        "Compose": seconds(COMPOSE["services"]["worker"]["stop_grace_period"]),
        "systemd": seconds(unit()["TimeoutStopSec"][0]),
    }
    assert {who: time for who, time in given.items() if time <= NEEDED} == {}


@pytest.mark.parametrize("folder", ["", "kubernetes/base"])
def test_the_configurations_work_as_written_and_need_no_longer_drain(folder: str, tmp_path: Path) -> None:
    text = (DEPLOY / folder / "deltabus.toml").read_text(encoding="utf-8")
    (tmp_path / "run").mkdir()
    for name in set(re.findall(r'file = "(/run/secrets/[^"]+)"', text)):
        path = tmp_path / name[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret-0123456789")
    config = tmp_path / "deltabus.toml"
    config.write_text(text.replace("/run/", f"{tmp_path}/run/"))
    loaded = settings.load(config, {})
    assert [provider.problem for provider in loaded.providers.values()] == [None]
    assert loaded.drain_timeout == DEFAULTS.drain_timeout


def test_secrets_are_mounted_where_the_configurations_look() -> None:
    wanted = set(re.findall(r'/run/secrets/([^"]+)"', (DEPLOY / "deltabus.toml").read_text(encoding="utf-8")))
    service = COMPOSE["services"]["worker"]
    wanted.add(Path(service["environment"]["DELTABUS_REDIS_PASSWORD_FILE"]).name)
    assert set(service["secrets"]) == wanted == set(COMPOSE["secrets"])
    (mount,) = [mount for mount in CONTAINER["volumeMounts"] if mount["name"] == "secrets"]
    text = (DEPLOY / "kubernetes" / "base" / "deltabus.toml").read_text(encoding="utf-8")
    assert set(re.findall(r'file = "([^"]+)/\w+"', text)) == {mount["mountPath"]}
    (volume,) = [volume for volume in POD["volumes"] if volume["name"] == "secrets"]
    assert OBJECTS["TriggerAuthentication"]["spec"]["secretTargetRef"][0]["name"] == volume["secret"]["secretName"]
    assert volume["secret"]["defaultMode"] & 0o007 == 0
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text(encoding="utf-8")


def test_every_variable_and_port_is_the_workers() -> None:
    image = environment(DOCKERFILE)
    ours = {name: value for name, value in image.items() if name.startswith("DELTABUS_")}
    assert settings.load(environ=ours).metrics_host == "0.0.0.0"
    port = int(ours["DELTABUS_METRICS_PORT"])
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [str(port)]
    assert f"127.0.0.1:{port}/healthz" in DOCKERFILE
    assert [(item["name"], item["containerPort"]) for item in CONTAINER["ports"]] == [("metrics", port)]
    annotations = OBJECTS["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port)
    assert OBJECTS["NetworkPolicy"]["spec"]["ingress"][0]["ports"] == [{"port": "metrics"}]
    variables = dict(text.split("=", 1) for text in unit()["Environment"])
    variables["DELTABUS_CONFIG"] = str(DEPLOY / "deltabus.toml")
    settings.load(
        environ=variables | COMPOSE["services"]["worker"]["environment"] | {"DELTABUS_REDIS_PASSWORD_FILE": ""}
    )


def test_probes_wait_as_long_as_a_worker_may_take_to_start() -> None:
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert probes == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    startup = CONTAINER["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > START_LIMIT
    assert seconds(unit()["TimeoutStartSec"][0]) > START_LIMIT
    assert f"--start-period={START_LIMIT:g}s" in DOCKERFILE


def test_nothing_runs_as_root_or_may_become_it() -> None:
    user = re.search(r"useradd --uid (\d+)", DOCKERFILE)
    assert user is not None
    assert re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE).groups() == (user[1], user[1])
    assert DOCKERFILE.index("USER ") < DOCKERFILE.index("ENTRYPOINT")
    pod = POD["securityContext"]
    assert (pod["runAsNonRoot"], pod["runAsUser"], pod["fsGroup"]) == (True, int(user[1]), int(user[1]))
    inner = CONTAINER["securityContext"]
    assert (inner["allowPrivilegeEscalation"], inner["readOnlyRootFilesystem"]) == (False, True)
    assert inner["capabilities"] == {"drop": ["ALL"]}
    service = COMPOSE["services"]["worker"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert unit()["User"] == ["deltabus"]
    assert unit()["NoNewPrivileges"] == ["yes"]


def test_the_worker_is_process_1_and_hears_the_signal() -> None:
    assert re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", DOCKERFILE, re.MULTILINE) == ['["deltabus"]', '["worker"]']
    assert CONTAINER["args"] == ["worker"]
    assert "command" not in CONTAINER


def test_keda_looks_at_lists_and_metrics_that_exist() -> None:
    triggers = OBJECTS["ScaledObject"]["spec"]["triggers"]
    lists = [trigger["metadata"]["listName"] for trigger in triggers if trigger["type"] == "redis"]
    assert lists == [f"{DEFAULTS.rq_key_prefix}:queue:{queue}" for queue in DEFAULTS.queues]
    queries = " ".join(trigger["metadata"]["query"] for trigger in triggers if trigger["type"] == "prometheus")
    named = set(re.findall(r"deltabus_\w+", queries))
    assert named == {"deltabus_queue_oldest_seconds", "deltabus_slots_used"}
    assert named <= {metric.name for metric in METRICS}
    config = tomllib.loads((DEPLOY / "kubernetes" / "base" / "deltabus.toml").read_text(encoding="utf-8"))
    (slots,) = [trigger for trigger in triggers if trigger["name"] == "slots"]
    assert int(slots["metadata"]["threshold"]) == 0.7 * config["concurrency"]


def test_the_labels_that_select_the_pods_are_on_them() -> None:
    labels = OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        OBJECTS["Deployment"]["spec"]["selector"],
        OBJECTS["PodDisruptionBudget"]["spec"]["selector"],
        OBJECTS["NetworkPolicy"]["spec"]["podSelector"],
    ]
    assert [selector["matchLabels"] for selector in selectors] == [labels] * 3
    assert OBJECTS["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == OBJECTS["Deployment"]["metadata"]["name"]
    assert POD["serviceAccountName"] == OBJECTS["ServiceAccount"]["metadata"]["name"]


def test_redis_keeps_what_it_is_given() -> None:
    command = COMPOSE["services"]["redis"]["command"][-1]
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert "requirepass" in command
    assert COMPOSE["networks"]["bus"] == {"internal": True}


def test_the_image_gets_nothing_but_what_it_copies() -> None:
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    }
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    assert {Path(word).parent.as_posix() if word.endswith(".lock") else word for word in copied} == {
        word.removesuffix("/*.lock") for word in let_in
    }
