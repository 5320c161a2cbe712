"""Messages that no worker can run: they are dropped, and delay no other."""

import aiormq
import pytest

from tests.support.addresses import BrokerVhost
from tests.support.system import System, call
from tests.support.waiting import eventually

UNKNOWN = b'{"id": "01900000-0000-7000-8000-000000000000", "type": "sample.note.v1"}'


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b'{"id": 1}', UNKNOWN])
async def test_a_message_that_nobody_can_run_is_dropped_and_holds_up_nobody(
    declared: System, broker_vhost: BrokerVhost, body: bytes
) -> None:
    api, worker = declared.api(), declared.worker()
    await api.ready()
    await worker.ready()
    connection = await aiormq.connect(broker_vhost.url)
    try:
        channel = await connection.channel()
        await channel.basic_publish(body, exchange="tasks.direct", routing_key="default", mandatory=True)
    finally:
        await connection.close()
    status, _, answer = await call(f"http://{api.address}/enqueue", {"type": "sample.note.v1", "payload": {}})
    assert status == 201, answer

    async def has_run() -> bool:
        return any(run["task_id"] == answer["id"] and run["phase"] == "end" for run in declared.runs())

    await eventually(has_run, "the task behind it has run")
    assert {run["task_id"] for run in declared.runs()} == {answer["id"]}
