"""Memory: a child process that uses it up is ended by the kernel, and nothing else is."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from tests.worker.handlers.conftest import Street, children, ends

LIMIT_BYTES = 512 * 2**20
ROOTS = {"memory.limit_in_bytes": Path("/sys/fs/cgroup/memory"), "memory.max": Path("/sys/fs/cgroup")}


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A cgroup with little memory, as a pod with a limit has, in version 1 or 2."""
    name = f"dtq-test-{os.getpid()}"
    for limit, root in ROOTS.items():
        group = root / name
        with suppress(OSError):
            group.mkdir()
            (group / limit).write_text(str(LIMIT_BYTES))
            break
    else:
        pytest.skip("this user may not make a memory cgroup here")
    yield group
    with suppress(OSError):
        group.rmdir()


async def test_the_kernel_ends_the_child_that_uses_up_the_memory_and_not_the_worker(
    street: Street, memory_group: Path, tmp_path: Path
) -> None:
    await street.open()
    assert street.process is not None
    for pid in (street.process.popen.pid, *children(street.process.popen.pid)):
        (memory_group / "cgroup.procs").write_text(str(pid))
    until = await street.move_in(tmp_path)
    row = await ends(street, "kind.process", 60, kind="real memory bomb")
    assert (row["status"], row["attempts"]) == ("FAILED", 1)
    assert "signal 9" in row["last_error"]
    assert "the kernel killed it because it ran out of memory" in row["last_error"]
    assert "resources.limits.memory" in row["last_error"], "how to give it more"
    await street.is_unharmed(until)
    assert await street.stop() == 0
    street.process.kill()

    async def it_is_empty() -> bool:
        return not (memory_group / "cgroup.procs").read_text()

    await eventually(it_is_empty, "nothing is left in the group")
