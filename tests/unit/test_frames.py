"""Frames: what we pack and read is what the AMQP library packs and reads, however the bytes are cut."""

from typing import Any

import pamqp.frame
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from dtq.broker.confirms import Confirms, Refused, Returned, Window
from dtq.broker.frames import Deliveries, FrameReader, pack_message

EXCHANGES = st.from_regex(r"[a-zA-Z0-9_.:-]{0,40}", fullmatch=True)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
CUTS = st.lists(st.integers(1, 50), min_size=1, max_size=20)


@given(EXCHANGES, NAMES, st.binary(max_size=300), st.integers(1, 10**9), st.none() | st.integers(1, 10**7))
def test_a_message_is_packed_as_the_library_packs_it(
    exchange: str, key: str, body: bytes, tag: int, ttl_ms: int | None
) -> None:
    frames: list[Any] = [spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=True)]
    properties = spec.Basic.Properties(
        delivery_mode=2,
        content_type="application/json",
        message_id=str(tag),
        expiration=None if ttl_ms is None else str(ttl_ms),
    )
    frames.append(ContentHeader(properties=properties, body_size=len(body)))
    frames += [ContentBody(body[at : at + 100]) for at in range(0, len(body), 100)]
    wanted = b"".join(pamqp.frame.marshal(frame, 7) for frame in frames)
    packed = pack_message(7, exchange, key, body, message_id=str(tag), ttl_ms=ttl_ms, part_bytes=100)
    assert packed == wanted


@given(st.lists(st.binary(max_size=60), max_size=8), CUTS, st.sampled_from([7, 1000]))
def test_deliveries_arrive_whole_and_the_rest_goes_to_the_driver(
    bodies: list[bytes], cuts: list[int], part_bytes: int
) -> None:
    arrived: list[tuple[int, bytes]] = []
    reader = FrameReader()
    reader.listeners[3] = Deliveries(lambda tag, body: arrived.append((tag, body)))
    stream, rest = b"", b""
    for tag, body in enumerate(bodies, 1):
        stream += delivery(3, tag, body, part_bytes=part_bytes)
        others = pamqp.frame.marshal(Heartbeat(), 0) + delivery(4, tag, body, part_bytes=1000)
        others += pamqp.frame.marshal(spec.Basic.CancelOk(consumer_tag="c"), 3)
        stream, rest = stream + others, rest + others
    assert feed(reader, stream, cuts) == rest
    assert arrived == list(enumerate(bodies, 1))


@given(st.binary(min_size=1, max_size=200), CUTS)
def test_bytes_that_are_no_frames_go_to_the_driver(noise: bytes, cuts: list[int]) -> None:
    arrived: list[tuple[int, bytes]] = []
    reader = FrameReader()
    reader.listeners[1] = Deliveries(lambda tag, body: arrived.append((tag, body)))
    stream = delivery(1, 1, b"good", part_bytes=1000) + b"AMQP\x00\x00\x09\x01" + noise
    assert feed(reader, stream, cuts) == b"AMQP\x00\x00\x09\x01" + noise
    assert arrived == [(1, b"good")]


def test_the_broker_s_alarm_is_noticed_and_passed_on() -> None:
    reader = FrameReader()
    blocked = pamqp.frame.marshal(spec.Connection.Blocked("memory"), 0)
    assert reader.feed(blocked) == blocked
    assert reader.is_blocked
    reader.feed(pamqp.frame.marshal(spec.Connection.Unblocked(), 0))
    assert not reader.is_blocked


async def test_each_confirm_settles_the_messages_that_it_means() -> None:
    confirms, reader = Confirms(), FrameReader()
    reader.listeners[1] = confirms
    first, second = Window(3), Window(4)
    for window in (first, second):
        for index in range(len(window.outcomes)):
            confirms.add(window, index)
    returned = pamqp.frame.marshal(spec.Basic.Return(312, "NO_ROUTE", "x", "y"), 1)
    returned += content(1, b"body", message_id="2")
    frames = returned + method(spec.Basic.Ack(2, multiple=True))
    assert reader.feed(frames) == b""
    assert [type(outcome) for outcome in first.outcomes] == [type(None), Returned, TimeoutError]
    assert reader.feed(method(spec.Basic.Nack(5)) + method(spec.Basic.Ack(3))) == b""
    assert first.answered.done()
    assert not second.answered.done()
    assert reader.feed(method(spec.Basic.Ack(99)) + method(spec.Basic.Ack(7, multiple=True))) == b""
    assert [type(outcome) for outcome in second.outcomes] == [type(None), Refused, type(None), type(None)]
    assert second.answered.done()


async def test_a_channel_that_is_gone_fails_what_is_open() -> None:
    confirms = Confirms()
    window = Window(2)
    confirms.add(window, 0)
    confirms.add(window, 1)
    confirms(1, method(spec.Basic.Ack(1)), 7, 20)
    gone = ConnectionError("gone")
    confirms.fail(gone)
    assert window.outcomes == [None, gone]
    assert window.answered.done()


def method(frame: Any) -> bytes:
    """A frame of channel 1."""
    return pamqp.frame.marshal(frame, 1)


def delivery(channel: int, tag: int, body: bytes, *, part_bytes: int) -> bytes:
    """The frames of a delivery, its body in parts."""
    deliver = spec.Basic.Deliver(consumer_tag="ctag", delivery_tag=tag, exchange="x", routing_key="k")
    return pamqp.frame.marshal(deliver, channel) + content(channel, body, part_bytes=part_bytes)


def content(channel: int, body: bytes, *, part_bytes: int = 1000, message_id: str | None = None) -> bytes:
    """The frames of a header and a body."""
    header = ContentHeader(properties=spec.Basic.Properties(message_id=message_id), body_size=len(body))
    parts: list[Any] = [ContentBody(body[at : at + part_bytes]) for at in range(0, len(body), part_bytes)]
    return b"".join(pamqp.frame.marshal(frame, channel) for frame in [header, *parts])


def feed(reader: FrameReader, stream: bytes, cuts: list[int]) -> bytes:
    """Feed a stream in pieces; return what is left for the driver."""
    rest, at, turn = b"", 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        rest += reader.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    return rest
