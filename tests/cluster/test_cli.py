"""Which cluster a command means, and what it refuses."""

from pathlib import Path

import pytest

from hack.cluster import __main__ as cli
from hack.cluster import kind, providers
from hack.cluster.state import State
from hack.lib.errors import HackError


@pytest.fixture
def state(tmp_path: Path) -> State:
    made = State(tmp_path / "state")
    made.folder.mkdir()
    return made


def test_a_kubeconfig_comes_before_kind_and_native(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "usable", lambda: True)
    assert providers.choose(state, providers.AUTO, Path("given")) == "existing"
    assert providers.choose(state, providers.AUTO, None) == "kind"
    monkeypatch.setattr(kind, "usable", lambda: False)
    assert providers.choose(state, providers.AUTO, None) == "native"


def test_a_cluster_that_is_there_is_not_chosen_again(state: State) -> None:
    state.claim("control-plane")
    assert providers.choose(state, providers.AUTO, None) == "control-plane"


def test_a_state_folder_holds_one_cluster(state: State) -> None:
    state.claim("native")
    with pytest.raises(HackError, match="holds a cluster of the provider native"):
        state.claim("kind")


def test_a_folder_of_someone_elses_files_is_never_taken(state: State) -> None:
    (state.folder / "thesis.txt").touch()
    with pytest.raises(HackError, match="would remove what is in it"):
        state.claim("native")


def test_one_command_at_a_time_changes_a_cluster(state: State) -> None:
    with state.exclusive(), pytest.raises(HackError, match="another command"), state.exclusive():
        pass
    with state.exclusive():
        pass


def test_down_without_a_cluster_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["hack.cluster", "down", "--state", str(tmp_path / "none")])
    assert cli.main() == 0
    assert "no cluster in" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_status_without_a_cluster_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["hack.cluster", "status", "--state", str(tmp_path)])
    assert cli.main() == 1
    assert "next: make cluster-up" in capsys.readouterr().err


def test_a_missing_kubeconfig_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["hack.cluster", "up", "--state", str(tmp_path / "state"), "--kubeconfig", str(tmp_path / "none")]
    monkeypatch.setattr("sys.argv", argv)
    assert cli.main() == 1
    assert "no such kubeconfig" in capsys.readouterr().err
