"""The library of metrics is wanted by who wants metrics, and by nobody else."""

from __future__ import annotations

import subprocess
import sys

import pytest
from redis import Redis

from deltabus.errors import ConfigError
from deltabus.monitoring.instruments import serve
from deltabus.monitoring.roster import Roster
from deltabus.settings import Settings


def test_without_the_extra_a_port_is_one_clear_error(monkeypatch):
    for module in ("deltabus.monitoring.statusserver", "deltabus.monitoring.metrics.exposition"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(ConfigError) as caught:
        serve(Roster(), Settings(metrics_port=9464), Redis(), ["chat"])
    assert str(caught.value) == "metrics_port needs prometheus-client: pip install 'deltabus[metrics]'"


def test_a_worker_without_metrics_loads_nothing_of_them():
    code = "import sys, deltabus.worker, deltabus.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"prometheus_client", "http.server", "deltabus.monitoring.statusserver"}.isdisjoint(loaded)
