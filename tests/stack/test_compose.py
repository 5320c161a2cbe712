"""The description of the containers, which only a machine with a Docker engine can run."""

from typing import Any

import pytest
import yaml

from hack.stack import compose

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(compose.FILE.read_text())["services"]


@pytest.mark.parametrize("name", ["postgres", "rabbitmq"])
def test_a_container_is_reached_from_this_machine_only_and_says_when_it_is_well(name: str) -> None:
    service = SERVICES[name]
    assert all(port.startswith("127.0.0.1:${DTQ_") for port in service["ports"])
    assert service["healthcheck"]["test"]
    assert service["volumes"]


def test_no_password_stands_in_the_file() -> None:
    values = [value for service in SERVICES.values() for value in service["environment"].items()]
    assert all(value.startswith("${") for name, value in values if "PASS" in name)
