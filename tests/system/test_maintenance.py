"""Maintenance in a process of its own: the API beside it hosts no role, and nothing is missing."""

import asyncio
import re

from tests.support.system import Process, System, text_of
from tests.system.test_life import enqueue, has_started, has_status

LOOPS = re.compile(r'^dq_loop_last_success_timestamp_seconds\{loop="([^"]+)"\}', re.MULTILINE)
ROLES = {"relay", "mover", "reaper", "pruner", "topology", "scheduler", "schedules", "backlog"}


async def test_tasks_of_a_lost_worker_are_taken_back_by_a_maintenance_process_alone(declared: System) -> None:
    api, maintenance, worker = declared.api(DTQ_API_MAINTENANCE="off"), declared.maintenance(), declared.worker()
    for process in (api, maintenance, worker):
        await process.ready()
    id_ = await enqueue(api, first_seconds=600)
    await has_started(declared, id_)
    worker.kill()
    await declared.worker().ready()
    assert (await has_status(api, id_, "SUCCEEDED", seconds=60))["attempts"] == 2
    assert not ROLES & await loops(api)
    assert {"relay", "reaper"} <= await loops(maintenance)
    assert await asyncio.to_thread(maintenance.terminate) == 0


async def loops(process: Process) -> set[str]:
    """The loops of a process that have come to the end of a step."""
    return set(LOOPS.findall(await text_of(f"http://{process.address}/metrics")))
