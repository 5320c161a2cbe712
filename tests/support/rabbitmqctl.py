"""The administration command of a test's own broker."""

import asyncio
import subprocess
from typing import Final

from hack.stack.rabbitmq import RabbitMQ

CONTROL_SECONDS: Final = 60.0
"""A command, in seconds: it starts a whole Erlang node on a busy machine."""


async def rabbitmqctl(server: RabbitMQ, *arguments: str) -> None:
    """Run `rabbitmqctl`; an exit code other than 0 is an error with what the command printed."""
    done = await asyncio.to_thread(
        subprocess.run,
        server.control(*arguments),
        env=server.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=CONTROL_SECONDS,
    )
    assert done.returncode == 0, f"rabbitmqctl {' '.join(arguments)}: {(done.stdout + done.stderr)[-500:]}"
