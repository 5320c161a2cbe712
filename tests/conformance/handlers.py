"""The handlers that a worker under test must have."""

import asyncio
from typing import Any

from dtq import Context, handler


@handler("conform.ok.v1")
async def ok(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Give back what came."""
    return {"attempt": context.attempt, "echo": payload.get("echo")}


@handler("conform.fail.v1")
async def fail(_: dict[str, Any]) -> None:
    """Fail, always."""
    raise RuntimeError("as asked")


@handler("conform.slow.v1")
async def slow(payload: dict[str, Any], context: Context) -> dict[str, int]:
    """Take `seconds`."""
    await asyncio.sleep(payload["seconds"])
    return {"attempt": context.attempt}
