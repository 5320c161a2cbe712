"""The handlers of the two tenants: they do nothing."""

from typing import Any

from dtq import handler


@handler("victim.order.v1")
async def order(payload: dict[str, Any]) -> None:
    """Do nothing."""
    del payload


@handler("attacker.any.v1")
async def anything(payload: Any) -> None:
    """Do nothing."""
    del payload
