"""`make up` keeps what was applied since, and runs its proof only while the samples are as the files say."""

from pathlib import Path

import asyncpg
import pytest

from hack.stack.app import App
from hack.stack.commands import declare_samples
from hack.stack.demo import is_unchanged
from hack.stack.settings import ROOT, Settings
from tests.support.addresses import BrokerVhost


@pytest.mark.parametrize(
    ("plan", "unchanged"),
    [
        (["queueset/default: unchanged", "tasktype/email.send.v1: unchanged"], True),
        (["dtq: warning: DTQ_X is set, but no setting has that name", "queueset/default: unchanged"], True),
        (["queueset/default: would declare tasks.high (missing in RabbitMQ)"], True),
        (["queueset/default: unchanged", "tasktype/email.send.v1: would update email.send.v1 (active)"], False),
        (["queueset/default: refused: ImmutableField: queues[high].type cannot be changed"], False),
        (["queueset/default: would claim default", "queueset/default: would create default"], False),
    ],
)
def test_a_dry_run_tells_whether_the_samples_are_as_the_files_say(
    tmp_path: Path, plan: list[str], *, unchanged: bool
) -> None:
    log = tmp_path / "apply.log"
    log.write_text("\n".join(plan) + "\n")
    assert is_unchanged(log) is unchanged


@pytest.mark.timeout(300)
async def test_what_was_applied_since_is_neither_reset_nor_a_failure(
    services_folder: Path, dsn: str, broker_vhost: BrokerVhost
) -> None:
    app = App(Settings.load({"DTQ_STATE": str(services_folder / "state")}))
    app.environ |= broker_vhost.environ(dsn)
    edited = services_folder / "edited.yaml"
    samples = [file.read_text() for file in sorted((ROOT / "examples").glob("*.yaml"))]
    edited.write_text("---\n".join(samples).replace("maxAttempts: 5", "maxAttempts: 7"))
    app.command("apply", "-f", str(edited))
    connection = await asyncpg.connect(dsn)
    # What the files cannot bring back: RabbitMQ keeps a queue's arguments.
    await connection.execute("UPDATE queue SET max_length = 5 WHERE name = 'default'")
    assert not declare_samples(app)[1]
    kept = await connection.fetchval("SELECT default_max_attempts FROM task_type WHERE type = 'email.send.v1'")
    await connection.close()
    assert kept == 7
