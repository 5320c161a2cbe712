"""The message: a wake-up that names a task. Payloads stay in Postgres.

Owns the origin's JSON `{"id", "type"}` (more keys may come, none may be required).
Must never trust a body: anything may be lost, doubled, late or forged.
"""

from uuid import UUID

import msgspec


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a message says: which task is due.

    Attributes:
        handed_on: how often workers without a handler for the type have published it again for others.
    """

    id: UUID
    type: str
    handed_on: int = 0


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Envelope)


def encode(envelope: Envelope) -> bytes:
    """Return the body of a message."""
    return _encoder.encode(envelope)


def decode(body: bytes) -> Envelope:
    """Return what a body says.

    Raises:
        ValueError: the body is not an envelope.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"not an envelope: {error}") from error
