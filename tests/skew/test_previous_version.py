"""The previous version's code on this version's schema, as it runs during a rollout and after a roll-back."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.skew import revisions
from tests.skew.scenario import live
from tests.support.addresses import BrokerVhost
from tests.support.system import REPOSITORY, opened

pytestmark = pytest.mark.timeout(600)
PREVIOUS = revisions.previous()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of this version's source."""
    folder = tmp_path / "source"
    for root in (*revisions.ROOTS, "tests/support", "tests/system"):
        shutil.copytree(REPOSITORY / root, folder / root, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.skipif(PREVIOUS is None, reason="no version is released yet: set DTQ_SKEW_REVISION to try a revision")
async def test_the_previous_versions_code_lives_on_this_schema(
    tmp_path: Path, dsn: str, broker_vhost: BrokerVhost
) -> None:
    assert PREVIOUS is not None
    with opened(tmp_path, dsn, broker_vhost) as system:
        await live(revisions.use(system, revisions.check_out(PREVIOUS, tmp_path / "previous")))


async def test_the_harness_lets_a_version_live_that_fits(
    tmp_path: Path, source: Path, dsn: str, broker_vhost: BrokerVhost
) -> None:
    with opened(tmp_path, dsn, broker_vhost) as system:
        await live(revisions.use(system, source))


def no_such_column(source: Path) -> None:
    """A version that reads a column which this schema has taken away."""
    _replace(source / "db/dtq_db/queries/catalog_types.sql", "SELECT type,", "SELECT type, retired_column,")


def another_function(source: Path) -> None:
    """A version that passes an argument which a function no longer takes."""
    _replace(source / "db/dtq_db/queries/task_finish.sql", "dtq_finish(", "dtq_finish('gone', ")


def a_migration_gone(source: Path) -> None:
    """A version whose migration was edited since."""
    _replace(source / "db/dtq_db/schema/0001_pre_tables.sql", "-- Tables.", "-- The tables.")


def _replace(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


@pytest.mark.parametrize(
    ("breaking", "told"),
    [(no_such_column, "retired_column"), (another_function, "not within"), (a_migration_gone, "was edited after")],
)
async def test_the_harness_finds_a_version_that_does_not_fit(
    tmp_path: Path,
    source: Path,
    dsn: str,
    broker_vhost: BrokerVhost,
    breaking: Callable[[Path], None],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.support.system.START_SECONDS", 30.0)
    monkeypatch.setattr("tests.skew.scenario.SECONDS", 20.0)
    breaking(source)
    with (
        opened(tmp_path, dsn, broker_vhost) as system,
        pytest.raises(AssertionError, match=told),
    ):
        await live(revisions.use(system, source))


def test_a_revision_is_checked_out_whole(tmp_path: Path) -> None:
    folder = revisions.check_out("HEAD", tmp_path / "head")
    assert (folder / "services/dtq_cli/main.py").is_file()
    assert (folder / "db/dtq_db/schema/0001_pre_tables.sql").is_file()


def test_code_of_this_checkout_is_never_taken_for_another_versions(
    tmp_path: Path, dsn: str, broker_vhost: BrokerVhost
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with (
        opened(tmp_path, dsn, broker_vhost) as system,
        pytest.raises(AssertionError, match="not of"),
    ):
        revisions.use(system, empty)


def test_the_environment_names_the_previous_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(revisions.REVISION_VARIABLE, "v9.9.9")
    assert revisions.previous() == "v9.9.9"
