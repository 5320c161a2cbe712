"""The supervisor of background processes: it ends what it started, and nothing else."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lib import processes
from hack.lib.background import Background
from hack.lib.errors import HackError
from hack.lib.waiting import wait_for
from hack.stack import guard

FOREVER = "import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
WITH_CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {FOREVER!r}]); {FOREVER}"


def background(folder: Path, script: str, *, stop_seconds: float = 10) -> Background:
    return Background(
        name="sample",
        argv=(sys.executable, "-c", script),
        environ=dict(os.environ),
        pid_file=folder / "sample.pid",
        log=folder / "sample.log",
        stop_seconds=stop_seconds,
    )


@pytest.fixture
def stranger() -> Iterator[processes.Identity]:
    with subprocess.Popen([sys.executable, "-c", FOREVER]) as running:
        identity = processes.identify(running.pid)
        assert identity is not None
        yield identity
        running.kill()


def test_a_started_process_is_found_again_and_stopped(tmp_path: Path) -> None:
    first = background(tmp_path, FOREVER)
    first.start()
    identity = first.identity
    assert identity is not None
    again = background(tmp_path, FOREVER)
    again.start()
    assert again.identity == identity
    again.stop()
    assert not identity.alive
    assert not again.pid_file.exists()


def test_a_recycled_pid_is_never_signalled(tmp_path: Path, stranger: processes.Identity) -> None:
    ours = background(tmp_path, FOREVER)
    ours.pid_file.write_text(f"{dataclasses.replace(stranger, started=stranger.started - 1)}\n")
    assert not ours.running
    ours.stop()
    ours.kill()
    assert stranger.alive


@pytest.mark.parametrize("text", ["", "nonsense", "1", "1 2 3", "-5 7"], ids=repr)
def test_a_broken_pid_file_means_not_running(tmp_path: Path, text: str) -> None:
    ours = background(tmp_path, FOREVER)
    ours.pid_file.write_text(text)
    assert not ours.running
    ours.stop()


def test_a_process_that_ignores_the_signal_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deaf = background(tmp_path, STUBBORN, stop_seconds=0.3)
    deaf.start()
    identity = deaf.identity
    assert identity is not None
    assert wait_for(lambda: "deaf" in deaf.log.read_text(), timeout_seconds=10)
    deaf.stop()
    assert not identity.alive
    assert "did not stop in 0.3 s: killed" in capsys.readouterr().err


def test_stop_leaves_no_child_behind(tmp_path: Path) -> None:
    parent = background(tmp_path, WITH_CHILD)
    parent.start()
    identity = parent.identity
    assert identity is not None
    assert wait_for(lambda: len(processes.family(identity)) == 1, timeout_seconds=10)
    children = processes.family(identity)
    parent.stop()
    assert not processes.any_alive([identity, *children])


@pytest.mark.parametrize("act", ["start", "stop"])
def test_children_of_a_killed_leader_are_ended(tmp_path: Path, act: str) -> None:
    parent = background(tmp_path, WITH_CHILD)
    parent.start()
    identity = parent.identity
    assert identity is not None
    assert wait_for(lambda: len(processes.family(identity)) == 1, timeout_seconds=10)
    children = processes.family(identity)
    identity.send(signal.SIGKILL)
    assert wait_for(lambda: not parent.running, timeout_seconds=10)
    assert processes.any_alive(children)
    getattr(parent, act)()
    assert not processes.any_alive(children)
    parent.stop()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = Background(
        name="sample",
        argv=("no-such-program",),
        environ={},
        pid_file=tmp_path / "x.pid",
        log=tmp_path / "x.log",
    )
    with pytest.raises(HackError, match=r"sample could not be started: .*no-such-program"):
        missing.start()


def test_the_guard_ends_what_a_killed_owner_left(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", FOREVER]) as owner:
        identity = processes.identify(owner.pid)
        assert identity is not None
        server = background(folder, FOREVER)
        server.start()
        left = server.identity
        assert left is not None
        watcher = guard.watch(folder, identity)
        watcher.start()
        watching = watcher.identity
        assert watching is not None
        owner.send_signal(signal.SIGKILL)
    assert wait_for(lambda: not folder.exists(), timeout_seconds=20)
    assert not left.alive
    # A helper of the owner that did not notice its end makes the folder again.
    folder.mkdir()
    assert wait_for(lambda: not folder.exists(), timeout_seconds=20)
    watching.send(signal.SIGKILL)
