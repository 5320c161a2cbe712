"""Guards: what the tree must look like for everything else to work."""

import operator
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dtq.runtime import metrics
from dtq_db.queries import names, query

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for root in ("operator", "services", "db") for path in (ROOT / root).rglob("*.py"))
MODULE_LINES_MAX = 500


def test_a_source_root_is_no_package() -> None:
    assert not [root for root in ("operator", "services", "db") if (ROOT / root / "__init__.py").exists()]
    assert ROOT not in Path(str(operator.__file__)).parents
    assert operator.add(1, 1) == 2


def test_no_module_is_too_long_to_be_read() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > MODULE_LINES_MAX} == {}


def test_every_module_says_what_it_owns() -> None:
    assert [str(path) for path in SOURCES if not path.read_text().startswith('"""')] == []


@pytest.mark.parametrize("name", names())
def test_every_statement_says_what_it_is_for_and_is_used(name: str) -> None:
    text = query(name)
    assert text.startswith("-- ")
    assert len(re.findall(r";\s*$", text)) == 0
    pattern = re.compile(rf'"{name}"')
    assert any(pattern.search(path.read_text()) for path in SOURCES)


def test_no_module_has_sql_of_its_own_but_the_statements() -> None:
    verb = re.compile(r'" *(SELECT|INSERT INTO|UPDATE|DELETE FROM) +\w')
    found = {str(path.relative_to(ROOT)) for path in SOURCES if verb.search(path.read_text())}
    assert found <= {"db/dtq_db/migrations.py"}


@pytest.mark.parametrize("process", ["ApiMetrics", "WorkerMetrics", "OperatorMetrics"])
def test_metric_names_are_ours_and_no_process_registers_one_twice(process: str) -> None:
    others = {"ApiMetrics", "WorkerMetrics", "OperatorMetrics"} - {process}
    if process != "ApiMetrics":
        others.add("MaintenanceMetrics")  # hosted by the API
    registry = CollectorRegistry()
    for name in sorted(vars(metrics)):
        if name.endswith("Metrics") and name not in others:
            getattr(metrics, name)(registry)
    families = list(registry.collect())
    assert len(families) > 20
    assert [family.name for family in families if not family.name.startswith("dq_")] == []
    assert [family.name for family in families if not family.documentation.endswith(".")] == []
