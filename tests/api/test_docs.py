"""`docs/http-api.md`: complete, and its examples answer as it says."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import httpx2
import pytest

from dtq.domain import limits
from dtq.domain.states import TaskStatus
from dtq.runtime.http_limits import HEAD_BYTES_MAX
from dtq_api import openapi, problems
from dtq_api.bodies import REDRIVE_DEFAULT
from dtq_api.enqueue_route import BODY_SECONDS
from tests.api.world import declare
from tests.support.addresses import BrokerVhost

PAGE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```\n(?:\n```json\n(.*?)^```\n)?", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [
    (command, told if at == 0 else "")
    for block, told in BLOCKS
    for at, command in enumerate(re.findall(r"^curl(?:[^\n]*\\\n)*[^\n]*", block, re.MULTILINE))
]
VARIABLE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


@pytest.mark.parametrize(
    "route", [f"{method.upper()} {path}" for path, methods in openapi.document()["paths"].items() for method in methods]
)
def test_every_route_is_on_the_page(route: str) -> None:
    assert f"| `{route}` |" in PAGE


@pytest.mark.parametrize("code", problems.KINDS)
def test_every_problem_type_is_on_the_page(code: str) -> None:
    kind = problems.KINDS[code]
    assert f"| `{code}` | {int(kind.status)} | {kind.meaning} |" in PAGE


def test_no_problem_type_and_no_route_is_on_the_page_that_does_not_exist() -> None:
    rows = re.findall(r"^\| `(\w+)` \| \d+ \|", PAGE, re.MULTILINE)
    assert rows == list(problems.KINDS)
    assert len(re.findall(r"^\| `(?:GET|POST) ", PAGE, re.MULTILINE)) == len(openapi.document()["paths"])


def test_the_bounds_on_the_page_are_those_in_force() -> None:
    assert limits.PAYLOAD_BYTES_MAX == 1024 * 1024
    assert "1 MiB" in PAGE
    assert f"`limit` (1..{limits.PAGE_MAX})" in PAGE
    assert f"`max_attempts` (1..{limits.ATTEMPTS_MAX})" in PAGE
    assert f"at most {REDRIVE_DEFAULT} tasks" in PAGE
    assert f"`limit` (up to {limits.REDRIVE_MAX:,})" in PAGE
    assert f"within {BODY_SECONDS:g} s" in PAGE
    assert f"{HEAD_BYTES_MAX // 1024} KiB" in PAGE


@pytest.mark.parametrize(("command", "told"), COMMANDS, ids=[str(number) for number in range(len(COMMANDS))])
async def test_every_example_answers_as_the_page_says(
    command: str, told: str, live: str, shared_services: tuple[str, BrokerVhost]
) -> None:
    dsn, _ = shared_services
    await declare(dsn, {"email.send.v1": {}})
    async with httpx2.AsyncClient() as client:
        answer = await client.send(request_of(command, live))
    assert answer.status_code in (200, 201, 400), answer.text
    shown: dict[str, Any] = answer.json()
    if told:
        assert VARIABLE.sub("ID", json.dumps(shown)) == VARIABLE.sub("ID", json.dumps(json.loads(told)))
    else:
        assert answer.status_code == 200


def request_of(command: str, address: str) -> httpx2.Request:
    """The request that a curl command sends."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words.pop(0) == "curl"
    url, headers, data = "", {}, None
    while words:
        match words.pop(0):
            case "-s":
                continue
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case "-d":
                data = words.pop(0)
            case word:
                url = word.replace("http://127.0.0.1:8080", address)
    return httpx2.Request("GET" if data is None else "POST", url, headers=headers, content=data)


def test_the_page_has_examples() -> None:
    assert len(COMMANDS) >= 5
    assert any(told for _, told in COMMANDS)
    assert str(TaskStatus.FAILED) in PAGE
