"""The demo handler of the origin: it sends no mail, but returns what it would have sent."""

from typing import Any

from dtq.handlers import Context, handler


@handler("email.send.v1")
async def send_email(payload: Any, context: Context) -> dict[str, Any]:
    """Pretend to send an e-mail; `payload` is `{"to": ..., "subject": ...}`."""
    recipient = payload.get("to") if isinstance(payload, dict) else None
    return {"sent": True, "to": recipient, "attempt": context.attempt}
