"""The program that `helm test` runs, against a whole API."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.api.world import declare, serving
from tests.auth.world import Callers
from tests.chart import rendering
from tests.support.addresses import BrokerVhost


async def check(api: str, token: str, folder: Path, **environ: str) -> tuple[int, str]:
    file = folder / "token"
    file.write_text(token)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(rendering.CHART / "files/check.py")),
        env={"API": api, "TOKEN_FILE": str(file), "TASK_TYPE": "", "PAYLOAD": "{}"} | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        told, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, told.decode()


async def test_it_passes_where_callers_are_asked_and_fails_where_something_is_wrong(
    dsn: str, broker_vhost: BrokerVhost, tmp_path: Path
) -> None:
    callers = Callers.create(tmp_path)
    await declare(dsn)
    async with serving(dsn, broker_vhost, **callers.environ) as (_, host, port):
        url = f"http://{host}:{port}"
        good = await check(url, callers.tokens["all"], tmp_path)
        assert good[0] == 0, good
        # Signed in, without the right to list: known all the same.
        assert (await check(url, callers.tokens["keda"], tmp_path))[0] == 0
        code, told = await check(url, "nonsense", tmp_path)
        assert code != 0
        assert "expected 200, got 401" in told
        code, told = await check(url, callers.tokens["all"], tmp_path, TASK_TYPE="not.declared.v1")
        assert code != 0
        assert "expected 201" in told
    async with serving(dsn, broker_vhost) as (_, host, port):
        code, told = await check(f"http://{host}:{port}", "x", tmp_path)
        assert code != 0
        assert "without a token: expected 401" in told


@pytest.mark.parametrize("name", rendering.VALUE_SETS)
def test_the_pod_runs_that_very_program(name: str) -> None:
    pods = rendering.of_kind(rendering.objects_of(name), "Pod")
    (pod,) = pods.values()
    container = pod["spec"]["containers"][0]
    assert container["args"] == [(rendering.CHART / "files/check.py").read_text().lstrip("\n")]
