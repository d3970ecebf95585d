"""Dashboard, alert rules and the table of metrics speak of metrics that there are, and of labels that they have.

That the catalogue is what a worker shows, tests/acceptance/test_metrics.py sees to.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from deltabus.monitoring.catalogue import METRICS

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "ops" / "grafana" / "deltabus.json"
RULES = ROOT / "ops" / "prometheus" / "deltabus.rules.yml"
DEPLOY = ROOT / "ops" / "deploy"
ALERTS = Path(__file__).with_name("alerts.yml")
TABLE = ROOT / "ops" / "metrics.md"

#: What Prometheus adds to every sample.
TARGET = {"job", "instance"}

#: Series by the names that queries use, with their labels.
SERIES = {
    name: {*metric.labels, *TARGET, *({"le"} if name.endswith("_bucket") else ())}
    for metric in METRICS
    for name in (
        [f"{metric.name}_{part}" for part in ("bucket", "count", "sum")]
        if metric.kind == "histogram"
        else [metric.name]
    )
}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Every query, with who asks it."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for path in sorted(DEPLOY.rglob("*.yaml")):
        for query in re.findall(r"^ *query: (.*deltabus_.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield path.name, query


def selectors(node: Any) -> Iterator[Any]:
    """The selectors of an expression."""
    match node:
        case promql.VectorSelector():
            yield node
        case promql.MatrixSelector():
            yield node.vector_selector
        case promql.Call():
            for argument in node.args:
                yield from selectors(argument)
        case promql.BinaryExpr():
            yield from selectors(node.lhs)
            yield from selectors(node.rhs)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.SubqueryExpr() | promql.UnaryExpr():
            yield from selectors(node.expr)


def grouped(node: Any) -> Iterator[tuple[set[str], Any]]:
    """The labels by which each aggregation groups, with what it groups."""
    match node:
        case promql.AggregateExpr():
            if node.modifier is not None:
                yield set(node.modifier.labels), node.expr
            yield from grouped(node.expr)
        case promql.BinaryExpr():
            yield from grouped(node.lhs)
            yield from grouped(node.rhs)
        case promql.Call():
            for argument in node.args:
                yield from grouped(argument)
        case promql.ParenExpr() | promql.SubqueryExpr() | promql.UnaryExpr():
            yield from grouped(node.expr)


@pytest.mark.parametrize(("who", "query"), list(queries()))
def test_a_query_asks_for_series_and_labels_that_there_are(who, query):
    expression = promql.parse(query)
    found = list(selectors(expression))
    assert found
    for selector in found:
        assert selector.name in SERIES, f"{who}: there is no {selector.name}"
        for matcher in selector.matchers.matchers:
            assert matcher.name in SERIES[selector.name], f"{who}: {selector.name} has no label {matcher.name}"
    for labels, inner in grouped(expression):
        for selector in selectors(inner):
            assert labels <= SERIES[selector.name], f"{who}: {selector.name} has no {labels - SERIES[selector.name]}"


@pytest.mark.parametrize(("who", "query"), list(queries()))
def test_counters_are_asked_for_rates_and_gauges_for_values(who, query):
    kinds = {name: metric.kind for metric in METRICS for name in SERIES if name.startswith(metric.name)}
    rated = re.findall(r"(?:rate|increase)\((deltabus_\w+)", query)
    for selector in selectors(promql.parse(query)):
        assert (selector.name in rated) is (kinds[selector.name] != "gauge"), f"{who}: {selector.name}"


def test_no_metric_is_left_out_of_the_dashboard():
    asked = {selector.name for _, query in queries() for selector in selectors(promql.parse(query))}
    missing = [metric.name for metric in METRICS if not any(name.startswith(metric.name) for name in asked)]
    assert missing == []


def test_panels_do_not_overlap_and_legends_name_labels_that_the_query_keeps():
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel["targets"]:
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = set().union(
                *(labels for labels, _ in grouped(promql.parse(target["expr"].replace("$__rate_interval", "5m"))))
            )
            assert wanted <= kept, panel["title"]
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_alert_says_what_it_means_and_how_bad_it_is():
    for rule in rules():
        assert rule["alert"].startswith("Deltabus")
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["description"].startswith("First: "), "what to do, before what it means"
        kept = set().union(TARGET, *(labels for labels, _ in grouped(promql.parse(rule["expr"]))))
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= kept, rule["alert"]
    assert len({rule["alert"] for rule in rules()}) == len(rules())


def test_the_table_of_metrics_is_the_catalogue():
    row = re.compile(r"^\| `(deltabus_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", re.MULTILINE)
    rows = row.findall(TABLE.read_text(encoding="utf-8"))
    wanted = [
        (metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for metric in METRICS
    ]
    assert rows == wanted


def test_promtool_finds_the_rules_right_and_the_alerts_fire_when_they_should():
    promtool = shutil.which("promtool")
    if promtool is None:
        assert os.environ.get("CI") != "true", "promtool is not installed"
        pytest.skip("promtool is not installed")
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(ALERTS)]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
