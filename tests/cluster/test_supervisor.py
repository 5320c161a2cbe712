"""The supervisor's promise: what it started it finds and ends, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hack.cluster.supervisor import Supervisor
from hack.lib.errors import HackError
from hack.lib.processes import Identity, identify
from hack.lib.waiting import wait_until

WAIT_SECONDS = 10.0
STUBBORN = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
signal.pause()
"""


def sleeper() -> list[str]:
    return ["/bin/sleep", "300"]


def test_a_process_runs_in_a_session_of_its_own_until_it_is_stopped(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.start("sleeper", sleeper())
    pid = supervisor.pid("sleeper")
    assert pid is not None
    assert os.getsid(pid) == pid
    assert supervisor.status() == [f"sleeper: pid {pid}"]
    supervisor.stop("sleeper")
    assert identify(pid) is None
    assert supervisor.names() == []


def test_another_supervisor_of_the_folder_finds_the_process(tmp_path: Path) -> None:
    Supervisor(tmp_path).start("sleeper", sleeper())
    later = Supervisor(tmp_path)
    assert later.running("sleeper")
    later.stop("sleeper")


def test_a_process_runs_once(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.start("sleeper", sleeper())
    with pytest.raises(HackError, match="runs already"):
        supervisor.start("sleeper", sleeper())
    supervisor.stop("sleeper")


@pytest.mark.parametrize("place", [1, 2], ids=["reused", "rebooted"])
def test_a_pid_that_was_given_to_another_process_is_never_signalled(tmp_path: Path, place: int) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.start("sleeper", sleeper())
    file = tmp_path / "run" / "sleeper.pid"
    note = file.read_text()
    pid = Identity.parse(note).pid
    fields = note.split()
    fields[place] = "1"
    file.write_text(" ".join(fields) + "\n")
    assert not supervisor.running("sleeper")
    supervisor.stop("sleeper")
    assert identify(pid) is not None
    file.write_text(note)
    supervisor.stop("sleeper")
    assert identify(pid) is None


def test_a_process_is_known_though_its_starter_died_at_once(tmp_path: Path) -> None:
    code = f"""
import os, pathlib
from hack.cluster.supervisor import Supervisor
from hack.lib import background
background.wait_for = lambda *_, **__: os._exit(9)
Supervisor(pathlib.Path({str(tmp_path)!r})).start("sleeper", ["/bin/sleep", "300"])
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    supervisor = Supervisor(tmp_path)
    wait_until(lambda: supervisor.running("sleeper"), "it is known", timeout_seconds=WAIT_SECONDS)
    supervisor.stop("sleeper")


def test_a_process_that_will_not_end_is_killed(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.start("stubborn", [sys.executable, "-c", STUBBORN])
    log = supervisor.log("stubborn")
    wait_until(lambda: log.read_text().endswith("\nready\n"), "it says ready", timeout_seconds=WAIT_SECONDS)
    pid = supervisor.pid("stubborn")
    assert pid is not None
    supervisor.stop("stubborn", term_seconds=0.1)
    assert identify(pid) is None


def test_the_end_of_a_process_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.start("failing", ["/bin/sh", "-c", "sleep 0.1; echo no such flag >&2; exit 1"])
    wait_until(lambda: not supervisor.running("failing"), "it ended", timeout_seconds=WAIT_SECONDS)
    with pytest.raises(HackError, match=r"(?s)failing ended.*failing\.log.*no such flag.*next:"):
        supervisor.check("failing")
    assert supervisor.status() == [f"failing: ended, {supervisor.log('failing')}"]


def test_a_wait_ends_and_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(HackError, match=r"(?s)it rains: not within 0 s.*rain\.log.*next: dance"):
        wait_until(lambda: False, "it rains", timeout_seconds=0, log=tmp_path / "rain.log", next_step="dance")
