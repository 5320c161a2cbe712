"""dtq's handler for the comparison: it does nothing but count."""

from bench.tally import began
from dtq import handler


@handler("bench.noop.v1")
async def noop(payload: dict[str, int]) -> dict[str, int]:
    """Return what came, as the peers do."""
    began(payload["sent_ns"])
    return {"sent_ns": payload["sent_ns"]}
