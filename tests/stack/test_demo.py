"""The proof at the end of `make up` is run only while the samples are as the files say."""

from pathlib import Path

import pytest

from hack.stack.demo import is_unchanged


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
