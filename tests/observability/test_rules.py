"""Alert rules and the dashboard: each alert fires when it should and only then, and every name in them exists."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.metrics import FILE, families, samples, text
from tests.observability.scenes import SCENES, Series

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "charts" / "dtq" / "files" / "rules").glob("*.yaml"))
DASHBOARD = ROOT / "charts" / "dtq" / "files" / "dashboards" / "dtq.json"
RUNBOOK = ROOT / "docs" / "runbook.md"
ALERTS = {
    rule["alert"]: rule
    for path in RULES
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
}
NAME = re.compile(r"\bdq_[a-z_]+\b")


def known_names() -> set[str]:
    """Every name that a scrape of our processes can hold."""
    return {name for _, found in families() for family in found for name in samples(family)}


def test_the_file_of_the_metrics_is_fresh_and_has_them_all() -> None:
    assert FILE.read_text() == text(), "run `python -m hack.metrics`"
    for _, found in families():
        for family in found:
            assert family.documentation.endswith("."), family.name
            assert NAME.fullmatch(family.name), family.name


def promtool(*arguments: str) -> str:
    program = shutil.which("promtool")
    assert program, "promtool is missing: `make packages` installs it"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_every_rule() -> None:
    assert "SUCCESS" in promtool("check", "rules", *map(str, RULES))


def test_every_alert_has_a_scene() -> None:
    assert set(ALERTS) == set(SCENES)


@pytest.mark.parametrize("name", sorted(SCENES))
def test_an_alert_fires_when_it_should_and_only_then(name: str, tmp_path: Path) -> None:
    scene = SCENES[name]
    firing = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
    document = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": "30s",
        "tests": [
            _scene(scene.fires, scene.minutes, firing, [{"labels": "{}", "value": scene.alerts}]),
            _scene(scene.quiet, scene.minutes, firing, []),
            _scene(scene.fires, 0, firing, []) if "for" in ALERTS[name] else _scene({}, 30, firing, []),
        ],
    }
    if name == "DtqApiAbsent":
        document["tests"] = document["tests"][:2]  # no series at all is what it is about
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(document))
    promtool("test", "rules", str(file))


def _scene(series: Series, minutes: int, expr: str, expected: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "interval": "30s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": expr, "eval_time": f"{minutes}m", "exp_samples": expected}],
    }


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert name.startswith("Dtq")
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"].endswith(".")
    url, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert url == "https://dtq.dev/docs/runbook.md"
    assert anchor == name.lower()
    assert f"\n### {name}\n" in RUNBOOK.read_text()


def test_the_runbook_has_no_alert_that_does_not_exist() -> None:
    assert set(re.findall(r"^### (Dtq\w+)$", RUNBOOK.read_text(), re.MULTILINE)) == set(ALERTS)


def test_every_metric_of_a_rule_exists() -> None:
    used = {name for rule in ALERTS.values() for name in NAME.findall(rule["expr"])}
    assert used
    assert used <= known_names()
    assert {
        name for scene in SCENES.values() for series in scene.fires for name in NAME.findall(series)
    } <= known_names()


def panels(found: list[Any]) -> Iterator[Any]:
    for panel in found:
        yield panel
        yield from panels(panel.get("panels", []))


def queries() -> list[str]:
    document = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in panels(document["panels"]) for target in panel.get("targets", [])]


def test_every_metric_of_the_dashboard_exists() -> None:
    used = {name for query in queries() for name in NAME.findall(query)}
    assert len(used) > 20
    assert used <= known_names()


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"dtq:panel:{number}", "expr": query.replace("$namespace", ".*").replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries())
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_the_dashboard_is_one_that_grafana_can_provision() -> None:
    document = json.loads(DASHBOARD.read_text())
    assert document["uid"] == "dtq"
    assert document["title"] == "dtq"
    assert {variable["name"] for variable in document["templating"]["list"]} == {"datasource", "namespace"}
    shown = list(panels(document["panels"]))
    assert len({panel["id"] for panel in shown}) == len(shown)
    for panel in shown:
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["description"].endswith(".")
        assert all('namespace=~"$namespace"' in target["expr"] for target in panel["targets"])


def test_a_counter_with_few_label_values_has_them_from_the_start() -> None:
    begun = {family.name: len(family.samples) for _, found in families() for family in found}
    for name in ("dq_reaped", "dq_auth_refused", "dq_token_reviews", "dq_deliveries", "dq_publish"):
        assert begun[name] > 1, name
