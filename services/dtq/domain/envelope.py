"""The envelope: a message body that names a task. The payload stays in Postgres.

The body is the JSON object `{"id", "type"}`; more keys may be added, and none of them may be required.
A body is never trusted: a message may be lost, duplicated, late or forged.
"""

from uuid import UUID

import msgspec


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of a message: which task is due.

    Attributes:
        handed_on: how often workers without a handler for the type have published the message again.
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
    """Return the envelope that a message body holds.

    Raises:
        ValueError: the body is not an envelope.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"not a valid envelope: {error}") from error
