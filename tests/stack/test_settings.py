"""What the stack remembers, and what it refuses."""

import stat
from pathlib import Path

import pytest

from hack.lib.errors import HackError
from hack.stack.settings import PORTS, Settings


def load(state: Path, **environ: str) -> Settings:
    return Settings.load({"DTQ_STATE": str(state), **environ})


@pytest.fixture
def state(services_folder: Path) -> Path:
    return services_folder / "state"


def test_ports_and_passwords_are_remembered(state: Path) -> None:
    first = load(state, DTQ_API_PORT="18080")
    first.save("native")
    again = load(state)
    assert again.ports == first.ports
    assert again.ports["api"] == 18080
    assert again.environ == first.environ
    assert again.provider == "native"


def test_files_with_passwords_are_for_their_owner_only(state: Path) -> None:
    settings = load(state)
    settings.save("native")
    for path in (settings.home / "stack.json", settings.state / "env"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_stacks_have_different_passwords(state: Path) -> None:
    assert load(state).environ["RMQ_PASS"] != load(state).environ["RMQ_PASS"]


def test_a_representation_keeps_the_passwords(state: Path) -> None:
    settings = load(state)
    assert settings.postgres_password not in repr(settings)
    assert settings.rabbitmq_password not in repr(settings)


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "80 80", "٨٠"])
def test_a_bad_port_is_named(state: Path, text: str) -> None:
    with pytest.raises(HackError, match=r"DTQ_API_PORT=.* is not a port"):
        load(state, DTQ_API_PORT=text)


def test_one_port_for_two_parts_is_refused(state: Path) -> None:
    with pytest.raises(HackError, match="given to two parts"):
        load(state, DTQ_API_PORT=str(PORTS["worker"][1]))


def test_a_damaged_memory_says_how_to_go_on(state: Path) -> None:
    settings = load(state)
    settings.save("native")
    (settings.home / "stack.json").write_text("{")
    with pytest.raises(HackError) as caught:
        load(state)
    assert "make destroy" in str(caught.value)
    assert Settings.load({"DTQ_STATE": str(state)}, forgiving=True).saved_ports is None


def test_two_commands_do_not_change_a_stack_at_once(state: Path) -> None:
    with load(state).lock(), pytest.raises(HackError, match="another command"), load(state).lock():
        pytest.fail("the second one must not get here")
