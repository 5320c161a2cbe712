"""The process as people start it: what keeps it from starting, what it writes down, and what it reads again."""

import json
import subprocess
from pathlib import Path

import httpx2
import pytest
import structlog

from dtq_api.auth.tokens import parse_tokens
from tests.auth.world import Guarded
from tests.support.addresses import free_address
from tests.support.system import System, completed, dtq_command
from tests.support.waiting import CHANGE_SECONDS, eventually
from tests.system.conftest import system

__all__ = ["system"]


def dtq(system: System, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return completed(dtq_command(*arguments), system.environ | environ, seconds=60)


def test_an_api_that_others_reach_does_not_start_without_auth(system: System) -> None:
    done = dtq(system, "api", HTTP_PORT="0.0.0.0:1")
    assert done.returncode == 2
    assert "DTQ_AUTH=on" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "DTQ_AUTH_TOKENS_FILE"),
        ({"DTQ_AUTH_TOKENS_FILE": "nowhere"}, "cannot be read"),
        ({"DTQ_AUTH_TOKENS_FILE": "bad"}, "line 1"),
        ({"DTQ_AUTH_TOKENS_FILE": "good", "DTQ_AUTH_POLICY_FILE": "bad"}, "DTQ_AUTH_POLICY_FILE"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "automountServiceAccountToken"),
    ],
)
def test_an_api_whose_files_have_mistakes_does_not_start(system: System, files: dict[str, str], told: str) -> None:
    (system.folder / "bad").write_text("nonsense\n")
    (system.folder / "good").write_text("")
    paths = {name: value if name.startswith("KUBE") else str(system.folder / value) for name, value in files.items()}
    done = dtq(system, "api", DTQ_AUTH="on", HTTP_PORT="0.0.0.0:1", DTQ_AUTH_SERVICE_ACCOUNT="/nowhere", **paths)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def made(system: System, name: str) -> tuple[str, str]:
    """A new token and its line, from the command."""
    lines = dtq(system, "token", name).stdout.splitlines()
    return lines[0].removeprefix("token: "), lines[1].removeprefix("line:  ")


def test_the_command_makes_a_token_and_its_line(system: System) -> None:
    token, line = made(system, "ci")
    parse_tokens(line)
    assert token not in line
    assert dtq(system, "token", "a:b").returncode == 2
    assert dtq(system, "token", "ci", "--expires", "soon").returncode == 2


async def test_a_token_is_replaced_without_a_restart_and_metrics_have_a_port_of_their_own(system: System) -> None:
    tokens = system.folder / "tokens"
    (first, line), (second, other) = made(system, "ci"), made(system, "ci")
    tokens.write_text(line)
    metrics = free_address()
    api = system.api(DTQ_AUTH="on", DTQ_AUTH_TOKENS_FILE=str(tokens), DTQ_METRICS_PORT=metrics)
    await api.ready()
    async with httpx2.AsyncClient() as client:

        async def status(token: str, path: str = "/tasks") -> int:
            url = f"http://{api.address}{path}"
            return (await client.get(url, headers={"Authorization": f"Bearer {token}"})).status_code

        assert (await status(first), await status(second)) == (200, 401)
        tokens.write_text(other)

        async def replaced() -> bool:
            return (await status(first), await status(second)) == (401, 200)

        await eventually(replaced, "the new token is good and the old one is not", CHANGE_SECONDS)
        answer = await client.get(f"http://{metrics}/metrics")
        assert "dq_auth_refused_total" in answer.text
        assert 'dq_http_responses_total{code="500",route="enqueue"} 0.0' in answer.text
        assert (await status(first, "/metrics"), await status(second, "/metrics")) == (401, 404)
        headers = {"Authorization": f"Bearer {second}"}
        assert "metrics" not in (await client.get(f"http://{api.address}/", headers=headers)).json()
        assert (await client.get(f"http://{metrics}/tasks")).status_code == 404
    assert first not in api.log.read_text()
    assert api.terminate() == 0


async def test_who_cancels_and_redrives_is_written_down(guarded: Guarded) -> None:
    cancelled, failed = await guarded.enqueued(), await guarded.failed()
    with structlog.testing.capture_logs() as logs:
        await guarded.ask("all", "POST", f"/tasks/{cancelled}/cancel")
        await guarded.ask("small", "POST", f"/tasks/{cancelled}/cancel")
        await guarded.ask("all", "POST", "/dlq/redrive", json={"ids": [failed], "dry_run": True})
        await guarded.ask("all", "POST", "/dlq/redrive", json={"ids": [failed]})
    audited = [line for line in logs if line["event"] in ("cancel", "redrive")]
    assert [(line["event"], line["caller"]) for line in audited] == [("cancel", "token:all"), ("redrive", "token:all")]
    assert audited[0]["task_id"] == cancelled
    assert audited[1]["tasks"] == 1
    told = json.dumps(logs, default=str)
    assert not [name for name, token in guarded.callers.tokens.items() if token in told]


async def test_a_bug_is_counted_as_a_500_of_its_route(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("as asked")

    api = guarded.api.api
    labels = {"route": "list_tasks", "code": "500"}
    assert api.registry.get_sample_value("dq_http_responses_total", labels) == 0
    monkeypatch.setattr(api.tasks, "page", broken)
    transport = httpx2.ASGITransport(app=api.front, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api") as client:
        assert (await client.get("/tasks", headers=guarded.callers.header("all"))).status_code == 500
    assert api.registry.get_sample_value("dq_http_responses_total", labels) == 1


def test_the_commands_and_names_of_the_guide_exist() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "auth.md").read_text()
    for name in (*["enqueue", "read", "read-payload", "cancel", "redrive", "scale-read", "metrics"], "tokenreviews"):
        assert f"`{name}`" in guide
