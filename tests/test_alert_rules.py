"""The alert rules: each fires when it must and keeps still when it may, and says what to do then."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from projections.metrics import families
from projections.scrape import Facts
from streams.messages import now

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "tocsin.rules.yml"
TESTS = PROMETHEUS / "tests"
RUNBOOKS = ROOT / "docs" / "runbooks"
SECTIONS = ("What it means", "What to do", "What passes by itself")


def rules() -> list[dict[str, Any]]:
    """All rules of the file."""
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


NAMES = [rule["alert"] for rule in rules()]


def promtool(*arguments: str | Path) -> str:
    """What promtool says; fails where it is not content."""
    if shutil.which("promtool") is None:
        pytest.skip("real part missing: prometheus")
    ran = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_every_rule_fires_when_it_must_and_keeps_still_when_it_may() -> None:
    """promtool plays the rules' own tests."""
    said = promtool("test", "rules", *sorted(TESTS.glob("*.yml")))
    assert said.count("SUCCESS") == len(NAMES)


def test_the_example_configuration_is_sound() -> None:
    """promtool takes prometheus.yml and the rules that it names."""
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_promtool_fails_a_rule_that_is_wrong(tmp_path: Path) -> None:
    """A rule that no longer fires is found: the tests are not of the kind that always pass."""
    (tmp_path / "tests").mkdir()
    name = "TocsinHeartbeatMissing.yml"
    shutil.copy(TESTS / name, tmp_path / "tests" / name)
    wrong = RULES.read_text("utf-8").replace("heartbeat_age_seconds > 15", "heartbeat_age_seconds > 15000")
    (tmp_path / RULES.name).write_text(wrong)
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", tmp_path / "tests" / name)


@pytest.mark.parametrize("name", NAMES)
def test_each_rule_is_tested_both_ways(name: str) -> None:
    """Its test file has a case in which it fires, and one in which it does not."""
    cases = [
        case
        for test in yaml.safe_load((TESTS / f"{name}.yml").read_text("utf-8"))["tests"]
        for case in test["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases} == {name}
    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


@pytest.mark.parametrize("rule", rules(), ids=NAMES)
def test_each_rule_leads_to_its_runbook(rule: dict[str, Any]) -> None:
    """It names a page that says what it means, what to do, and what passes by itself."""
    page = ROOT / rule["annotations"]["runbook_url"]
    assert page == RUNBOOKS / f"{rule['alert']}.md"
    text = page.read_text("utf-8")
    sections = dict(re.findall(r"^## (.+)\n\n((?:(?!^## ).*\n)+)", text, re.MULTILINE))
    assert tuple(sections) == SECTIONS
    assert all(len(section.strip()) > 20 for section in sections.values())
    assert rule["labels"]["severity"] in ("critical", "warning")


def test_no_test_and_no_runbook_is_left_of_a_rule_that_is_gone() -> None:
    """Files and rules are one to one."""
    assert {path.stem for path in TESTS.glob("*.yml")} == set(NAMES)
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {*NAMES, "README"}
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("rule", rules(), ids=NAMES)
def test_rules_name_metrics_that_exist(rule: dict[str, Any]) -> None:
    """A metric that is renamed without its rules would silence them."""
    nothing = Facts(redis=None, postgres=None, sources=None, breakers=[], replicas=0)
    known = {
        family.name + ("_total" if family.type == "counter" else "") for family in families(nothing, now())
    }
    # `tocsin_(one|other)_seconds` names two of them.
    named = re.sub(
        r"(tocsin_\w*)\(([\w|]+)\)(\w*)",
        lambda found: " ".join(f"{found[1]}{part}{found[3]}" for part in found[2].split("|")),
        rule["expr"],
    )
    assert set(re.findall(r"\btocsin_\w+", named)) <= known
