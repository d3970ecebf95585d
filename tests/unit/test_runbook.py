"""ops/runbook.md has an entry of one form for all that the code says is wrong. That it holds: tests/acceptance."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from documents import ROOT

import deltabus
from deltabus import errors
from deltabus.cli.check import REFUSALS
from deltabus.monitoring.pulse import Trouble

DOCUMENT = ROOT / "ops" / "runbook.md"
PACKAGE = Path(deltabus.__file__).parent
#: What an entry has, in this order, around its commands.
FORM = ("Symptom:", "Meaning:", "Cure")


def entries() -> dict[str, str]:
    """The text of each entry, by its heading."""
    found = re.split(
        r"^### (.+)\n", DOCUMENT.read_text(encoding="utf-8").partition("\n## Workers")[2], flags=re.MULTILINE
    )
    return dict(zip(found[1::2], found[2::2], strict=True))


def test_all_entries_have_one_form() -> None:
    for heading, text in entries().items():
        # A table has meaning and cure beside each other.
        form = FORM[:1] if re.search(r"^\|.*\| meaning \| cure \|$|becomes of it \| cure", text, re.MULTILINE) else FORM
        places = [text.find(word) for word in form]
        assert -1 not in places, f"{heading}: it has not all of {form}"
        assert places == sorted(places), f"{heading}: {form} in this order"
        assert re.match(r"\n(<a id=\"\w+\"></a>)*Symptom:", text), heading
        assert "\n```sh" in text, heading


def test_every_link_leads_to_something() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    places = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#{2,3} (.+)$", text, re.MULTILINE)
    }
    places |= {*re.findall(r'<a id="(\w+)">', text)}
    for file, place in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        assert not file or (DOCUMENT.parent / file).exists(), file
        assert file or place in places, place


def table(heading: str) -> dict[str, str]:
    """The rows of the table under a line of the runbook: the first cell by each name in it, and the others."""
    text = DOCUMENT.read_text(encoding="utf-8").partition(heading)[2].partition("| --- |")[2]
    rows = [line.strip("| ").split(" | ", 1) for line in text.partition("\n\n")[0].splitlines()[1:]]
    return {name: rest for names, rest in rows for name in re.findall("`([^`]+)`", names)}


def lines() -> Iterator[str]:
    """What workers log at `warning` or above; what varies is left out."""
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(ast.Name("log" | "_log"), "warning" | "error" | "exception" | "critical"),
                    args=[ast.Constant(str(words)), *_],
                ):
                    yield re.sub(r"%[.\d]*[a-z]", "…", words)


def test_every_line_that_warns_has_its_row() -> None:
    told = table("## Lines of the log")
    for line in lines():
        assert any(line.startswith(words) for words in told) or line == "Redis at … …: …", line
    said = "\n".join(lines())
    assert [words for words in told if words not in said and not words.startswith("Redis at …")] == []


def test_every_reason_of_health_has_its_row() -> None:
    reasons = {*re.findall(r'Problem\("(\w+)"', (PACKAGE / "monitoring" / "health.py").read_text(encoding="utf-8"))}
    assert {trouble.name.lower() for trouble in Trouble if trouble} < reasons
    assert table("give a reason**").keys() == reasons


def test_everything_that_check_finds_has_its_row() -> None:
    code = (PACKAGE / "cli" / "check.py").read_text(encoding="utf-8")
    found = {*re.findall(r'(?:Finding|_told)\(\s*f?"([^"{]+)', code)}
    assert {name.strip() for name in found} == {name.removesuffix(" …") for name in table("error or a warning**")}


@pytest.mark.parametrize("words", [*REFUSALS, "busy running a script", "max number of clients", "WRONGPASS"])
def test_what_redis_says_where_it_is_there_is_found(words: str) -> None:
    text = DOCUMENT.read_text(encoding="utf-8").partition("**Words of Redis**")[2]
    assert words in text


def test_every_alert_has_an_anchor_and_leads_there() -> None:
    rules = yaml.safe_load((ROOT / "ops" / "prometheus" / "deltabus.rules.yml").read_text(encoding="utf-8"))
    alerts = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}
    named = {name: heading for heading, text in entries().items() for name in re.findall(r'<a id="(\w+)">', text)}
    assert named.keys() == alerts.keys()
    for name, rule in alerts.items():
        assert f"`{name}`" in entries()[named[name]]
        assert rule["annotations"]["runbook_url"] == f"ops/runbook.md#{name}"


def test_every_code_has_a_meaning_and_a_cure() -> None:
    codes = {cls.code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.TaskError)}
    table = DOCUMENT.read_text(encoding="utf-8").partition("| code | meaning | cure |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert all(len(row) == 3 and all(row) for row in rows)
    assert {row[0].strip("`") for row in rows} == codes
