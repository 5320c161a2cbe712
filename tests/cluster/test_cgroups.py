"""The control groups of pods: a pod that ends takes its groups with it while they are read."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.native import cgroups


@pytest.fixture
def group() -> Iterator[Path]:
    name = cgroups.name_of(Path(f"/test/{os.getpid()}"))
    try:
        cgroups.make(name)
    except OSError:
        pytest.skip("this user may not make a control group here")
    yield next(cgroups.groups(name))
    cgroups.remove(name)


def test_a_group_names_the_processes_in_it(group: Path) -> None:
    assert cgroups.processes_of(group.parent) != []
    assert cgroups.processes_of(group) == []


def test_a_group_that_has_vanished_before_it_is_read_has_no_process(group: Path) -> None:
    group.rmdir()
    assert cgroups.processes_of(group) == []


def test_a_group_that_vanishes_while_it_is_read_has_no_process(group: Path, tmp_path: Path) -> None:
    with (group / "cgroup.procs").open() as opened:
        group.rmdir()
        file = tmp_path / "cgroup.procs"
        file.symlink_to(f"/proc/self/fd/{opened.fileno()}")
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its number says which
            file.read_text()
        assert caught.value.errno == errno.ENODEV
        assert cgroups.processes_of(tmp_path) == []


def test_a_group_that_has_vanished_is_removed(group: Path) -> None:
    group.rmdir()
    cgroups.remove_one(group)
    assert not group.exists()
