"""A yardstick, not a client: publishes prepared frames over a blocking socket and counts the confirms."""

import socket
import time
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from pamqp import body, commands, frame, header

WINDOW: Final = 1_000
"""Messages whose confirms are awaited together."""
BODY: Final = b'{"id": "01890a5d-ac96-774b-bcce-b302099a8057", "type": "n"}'
SOCKET_SECONDS: Final = 20.0
CHANNELS_MAX, FRAME_BYTES = 2047, 131_072
"""What the broker proposes by default."""


def publish_confirmed(url: str, queue: str, seconds: float) -> tuple[int, float]:
    """Publish for so long; return how many messages were confirmed, and in how many seconds."""
    target = urlsplit(url)
    with socket.create_connection((target.hostname, target.port), timeout=SOCKET_SECONDS) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _open(link, target.username or "", unquote(target.password or ""), queue)
        confirms = _Confirms(link)
        window = _message(queue) * WINDOW
        sent, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            link.sendall(window)
            sent += WINDOW
            confirms.wait_for(sent)
        return sent, time.perf_counter() - began


class _Confirms:
    """Reads confirms, which may come singly or with `multiple`."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._received = b""
        self._up_to = 0
        self._beyond: set[int] = set()

    def wait_for(self, count: int) -> None:
        """Return once the first messages, so many, are confirmed."""
        while self._up_to < count:
            self._received += self._link.recv(1 << 16)
            while (found := _next(self._received)) is not None:
                size, value = found
                self._received = self._received[size:]
                assert isinstance(value, commands.Basic.Ack), value
                self._note(value.delivery_tag, multiple=value.multiple)

    def _note(self, tag: int, *, multiple: bool) -> None:
        if multiple:
            self._up_to = max(self._up_to, tag)
        else:
            self._beyond.add(tag)
        while self._up_to + 1 in self._beyond:
            self._up_to += 1
            self._beyond.remove(self._up_to)


def _open(link: socket.socket, user: str, password: str, queue: str) -> None:
    link.sendall(header.ProtocolHeader().marshal())
    steps: tuple[tuple[tuple[Any, ...], int], ...] = (
        ((commands.Connection.StartOk(mechanism="PLAIN", response=f"\0{user}\0{password}", locale="en_US"),), 0),
        ((commands.Connection.TuneOk(CHANNELS_MAX, FRAME_BYTES, 0), commands.Connection.Open("/")), 0),
        ((commands.Channel.Open(),), 1),
        ((commands.Queue.Declare(queue=queue, durable=True, arguments={"x-queue-type": "quorum"}),), 1),
        ((commands.Confirm.Select(),), 1),
    )
    _receive(link)
    for methods, channel in steps:
        for method in methods:
            link.sendall(frame.marshal(method, channel))
        _receive(link)


def _receive(link: socket.socket) -> None:
    received = b""
    while _next(received) is None:
        received += link.recv(1 << 16)


def _next(received: bytes) -> tuple[int, Any] | None:
    """Return the size and the value of the first whole frame."""
    if len(received) < 8 or len(received) < int.from_bytes(received[3:7]) + 8:  # noqa: PLR2004 - a frame's own bytes
        return None
    size, _, value = frame.unmarshal(received)
    return size, value


def _message(queue: str) -> bytes:
    parts = (
        commands.Basic.Publish(exchange="", routing_key=queue),
        header.ContentHeader(body_size=len(BODY), properties=commands.Basic.Properties(delivery_mode=2)),
        body.ContentBody(BODY),
    )
    return b"".join(frame.marshal(part, 1) for part in parts)
