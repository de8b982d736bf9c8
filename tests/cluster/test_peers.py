"""Streams between nodes over real gRPC on loopback: order, breaks, bounds, and who is refused."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio
import msgspec
import pytest

from cluster.wire import wire_to
from roost.adapters.serving import OPTIONS
from roost.cluster.ids import ShardId
from roost.v1 import replication_pb2
from roost_node.core.record import Epoch, How, SessionId, ShardRecord, StoreId
from roost_node.core.replication.audit import Outcome
from roost_node.core.replication.epochs import Shape
from roost_node.core.replication.messages import (
    Append,
    Appended,
    Audit,
    Audited,
    Fetch,
    Fetched,
    FromFollower,
    FromOwner,
    HandedOver,
    Heartbeat,
    HeartbeatAck,
    LogEntry,
    Mismatch,
    Refused,
    Register,
    Registered,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotRows,
)
from roost_node.replication import translate
from roost_node.replication.link import METHOD, Link
from roost_node.replication.outbox import FRAME_BYTES, UNSENT_BYTES_MAX, Outbox
from roost_node.replication.peer_server import PeerServer
from roost_node.replication.peers import Peers

WAIT_S = 30  # generous: it is only waited for as long when a test fails
SHARD, EPOCH = ShardId(7), Epoch(3)
SHAPE = Shape(((Epoch(1), 1), (Epoch(3), 5)), 9, 2)
ENTRIES = (
    LogEntry(Epoch(1), 4, Epoch(1), b"h4", 1_000, b"body"),
    LogEntry(Epoch(3), 5, Epoch(1), b"h5", 1_001, b""),
)
FROM_OWNER: tuple[FromOwner, ...] = (
    Register(SHARD, EPOCH),
    Heartbeat(1),
    Append(SHARD, EPOCH, 3, Epoch(1), ENTRIES, 2),
    Append(SHARD, EPOCH, 0, Epoch(0), (), 0),
    Fetch(SHARD, EPOCH, 4),
    SnapshotBegin(SHARD, EPOCH, SHAPE, b"hash"),
    SnapshotRows(SHARD, EPOCH, ((b"\0\x07\x20a", b"1"), (b"\0\x07\x20b", b""))),
    SnapshotEnd(SHARD, EPOCH),
    HandedOver(
        SHARD,
        EPOCH,
        12,
        ShardRecord(
            EPOCH,
            StoreId("b"),
            SessionId(2),
            How.HANDOFF,
            (StoreId("b"), StoreId("a")),
            (StoreId("c"),),
            SessionId(1),
            StoreId(""),
            8,
            suspects=(StoreId("c"),),
        ),
    ),
    Audit(SHARD, EPOCH, 1, 9, b"\0\x07\x20a", 2**20, 2**18),
)
TO_OWNER: tuple[FromFollower, ...] = (
    Registered(SHARD, EPOCH, SHAPE),
    Refused(SHARD, EPOCH, Epoch(9)),
    HeartbeatAck(1),
    Appended(SHARD, EPOCH, 5, b"h5"),
    Mismatch(SHARD, EPOCH, Shape((), 0)),
    Fetched(SHARD, EPOCH, ENTRIES),
    Audited(SHARD, EPOCH, 1, Outcome.HASHED, b"digest"),
)


class Node:
    """A server with `Peers`, and a diary of what it heard."""

    def __init__(self, name: str) -> None:
        self.store = StoreId(name)
        self.events: list[tuple[object, ...]] = []
        self.answers = False
        self.streams = 0
        self.changed = asyncio.Event()
        self.port = 0
        self.peers: Peers

    def _note(self, *event: object) -> None:
        self.events.append(event)
        self.changed.set()

    def on_link(self, peer: StoreId) -> None:
        self._note("link", peer)

    def on_link_lost(self, peer: StoreId) -> None:
        self._note("link lost", peer)

    def on_from_follower(self, peer: StoreId, message: FromFollower) -> None:
        self._note("answer", peer, message)

    def on_inbound(self, peer: StoreId, session: SessionId) -> int:
        self.streams += 1
        self._note("inbound", peer, session, self.streams)
        return self.streams

    def on_inbound_lost(self, peer: StoreId, stream: int) -> None:
        self._note("inbound lost", peer, stream)

    def on_from_owner(self, peer: StoreId, stream: int, message: FromOwner) -> None:
        self._note("said", peer, stream, message)
        if self.answers and isinstance(message, Heartbeat):
            self.peers.reply(peer, stream, HeartbeatAck(message.number))

    def count(self, kind: str) -> int:
        return sum(1 for event in self.events if event[0] == kind)

    def heard(self, kind: str) -> list[object]:
        return [event[-1] for event in self.events if event[0] == kind]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@contextlib.asynccontextmanager
async def nodes(*names: str) -> AsyncIterator[list[Node]]:
    found = [Node(name) for name in names]
    servers: list[grpc.aio.Server] = []
    async with asyncio.TaskGroup() as tasks:
        for number, node in enumerate(found):
            node.peers = Peers(node.store, "ours", 2, node, tasks, random.Random(number))
            server = grpc.aio.server(options=OPTIONS)
            PeerServer(node.peers).add_to(server)
            node.port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            servers.append(server)
        try:
            yield found
        finally:
            for node in found:
                await node.peers.close()
            for server in servers:
                await server.stop(0)


def address(node: Node) -> str:
    return f"127.0.0.1:{node.port}"


def connect(one: Node, other: Node, session: int = 1) -> None:
    one.peers.set_peers(SessionId(session), {one.store: address(one), other.store: address(other)})


def test_every_message_is_read_as_it_was_said() -> None:
    framed = [translate.from_owner(message) for message in FROM_OWNER]
    assert translate.read_owner_frame(b"".join(framed)) == list(FROM_OWNER)
    answers = [translate.from_follower(message) for message in TO_OWNER]
    assert translate.read_follower_frame(b"".join(answers)) == list(TO_OWNER)


@pytest.mark.parametrize("size", [0, 100, 127, 128, 16_383, 16_384, 2**21 + 5])
def test_a_framed_message_is_a_frame_of_one(size: int) -> None:
    message = SnapshotRows(SHARD, EPOCH, ((b"k", b"v" * size),))
    raw = translate.from_owner(message)
    assert translate.read_owner_frame(raw) == [message]
    assert replication_pb2.OwnerFrame.FromString(raw).SerializeToString() == raw


def test_bytes_that_are_no_frame_are_a_value_error() -> None:
    for read in (translate.read_owner_frame, translate.read_follower_frame):
        with pytest.raises(ValueError, match="not a frame"):
            read(b"\xff\xff")
        with pytest.raises(ValueError, match="of a kind"):
            read(b"\x12\x00")
    with pytest.raises(ValueError, match="hello"):
        translate.read_hello(b"")
    with pytest.raises(ValueError, match="welcome"):
        translate.read_welcome(b"")


async def _two_streams_each_way() -> None:
    async with nodes("a", "b") as (a, b):
        connect(a, b, session=11)
        connect(b, a, session=12)
        for one, other, session in ((a, b, 11), (b, a, 12)):
            await one.until(lambda one=one: one.count("link") == 1)  # type: ignore[misc]
            await other.until(lambda other=other: other.count("inbound") == 1)  # type: ignore[misc]
            assert ("inbound", one.store, session, 1) in other.events
            for message in FROM_OWNER:
                one.peers.send(other.store, message)
            await other.until(lambda o=other: o.count("said") == len(FROM_OWNER))  # type: ignore[misc]
            assert other.heard("said") == list(FROM_OWNER)
            for answer in TO_OWNER:
                other.peers.reply(one.store, 1, answer)
                other.peers.reply(one.store, 2, answer)  # no such stream
            await one.until(lambda o=one: o.count("answer") == len(TO_OWNER))  # type: ignore[misc]
            assert one.heard("answer") == list(TO_OWNER)
            assert one.peers.pending_bytes(other.store) == 0


def test_two_nodes_have_a_stream_each_way_for_every_message() -> None:
    asyncio.run(_two_streams_each_way())


async def _order() -> None:
    async with nodes("a", "b") as (a, b):
        b.answers = True
        connect(a, b)
        await a.until(lambda: a.count("link") == 1)
        body = bytes(3_000)
        sent: list[FromOwner] = []
        number = 0
        while number < 6_000:
            for _ in range(50):
                number += 1
                entry = LogEntry(EPOCH, number, EPOCH, b"", 0, body)
                each: FromOwner = (
                    Heartbeat(number)
                    if number % 3
                    else Append(SHARD, EPOCH, number - 1, EPOCH, (entry,), 0)
                )
                sent.append(each)
                a.peers.send(b.store, each)
            await asyncio.sleep(0)  # a turn of the loop: what is said in one goes out together
        beats = [m.number for m in sent if isinstance(m, Heartbeat)]
        await a.until(lambda: a.count("answer") == len(beats))
        assert b.heard("said") == sent
        assert [m.number for m in a.heard("answer") if isinstance(m, HeartbeatAck)] == beats


def test_order_is_kept_between_all_kinds_under_load() -> None:
    asyncio.run(_order())


async def _dead_link() -> None:
    async with nodes("a", "b") as (a, b), wire_to(b.port) as wire:
        a.peers.set_peers(SessionId(5), {b.store: wire.address})
        await a.until(lambda: a.count("link") == 1)
        a.peers.send(b.store, Heartbeat(1))
        await b.until(lambda: b.count("said") == 1)
        wire.cut()  # no answer to a ping, and no end of the connection either
        await a.until(lambda: a.count("link lost") == 1)
        a.peers.send(b.store, Heartbeat(2))  # nothing is kept for the next stream
        wire.mend()
        await a.until(lambda: a.count("link") == 2)
        a.peers.send(b.store, Heartbeat(3))
        await b.until(lambda: Heartbeat(3) in b.heard("said"))
        assert b.heard("said") == [Heartbeat(1), Heartbeat(3)]
        kinds = [event[0] for event in b.events]
        assert kinds == ["inbound", "said", "inbound lost", "inbound", "said"]
        assert [event[2] for event in b.events if event[0] == "said"] == [1, 2]


def test_a_link_that_went_dead_is_noticed_and_opened_again_with_nothing_carried_over() -> None:
    asyncio.run(_dead_link())


async def _quiet() -> None:
    """A follower with a slow disk answers nothing for long: pings alone must not end the stream."""
    async with nodes("a", "b") as (a, b), wire_to(b.port) as wire:
        a.peers.set_peers(SessionId(5), {b.store: wire.address})
        await a.until(lambda: a.count("link") == 1)
        enough = wire.sent_count + 6  # gRPC's servers hang up at the third that they find too early
        async with asyncio.timeout(WAIT_S):
            while wire.sent_count < enough:
                await asyncio.sleep(0.05)
        assert a.events == [("link", b.store)]


def test_a_quiet_stream_stays_open() -> None:
    asyncio.run(_quiet())


async def _sessions() -> None:
    async with nodes("a", "b") as (a, b):
        connect(a, b, session=1)
        await a.until(lambda: a.count("link") == 1)
        connect(a, b, session=1)  # no news: no change
        connect(a, b, session=2)
        await a.until(lambda: a.count("link") == 2)
        assert [event[0] for event in a.events] == ["link", "link lost", "link"]
        await b.until(lambda: b.count("inbound") == 2)
        assert [e[2] for e in b.events if e[0] == "inbound"] == [1, 2]
        a.peers.set_peers(SessionId(2), {})
        await b.until(lambda: b.count("inbound lost") == 2)
        assert a.count("link lost") == 2
        a.peers.send(b.store, Heartbeat(1))  # to nobody
        assert a.peers.pending_bytes(b.store) == 0


def test_another_session_opens_its_own_streams_after_the_old_ones_ended() -> None:
    asyncio.run(_sessions())


async def _after_another() -> None:
    async with nodes("a", "b") as (a, b), asyncio.TaskGroup() as tasks:
        told = asyncio.Event()

        async def end() -> None:
            await told.wait()

        before = tasks.create_task(end())
        link = Link(address(b), _hello, a, random.Random(0), before)
        running = tasks.create_task(link.run())
        connect(b, a)
        await b.until(lambda: b.count("link") == 1)
        assert a.count("link") == 0
        told.set()
        await a.until(lambda: a.count("link") == 1)
        running.cancel()


def test_a_stream_begins_after_the_one_before_it_has_been_told_lost() -> None:
    asyncio.run(_after_another())


class _Stubborn(Link):
    """Answers its cancellation as gRPC was seen to: with an error of its own."""

    async def _connected(self) -> None:
        self.tries = getattr(self, "tries", 0) + 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("cancelled by the peer") from None


async def _swallowed() -> None:
    link = _Stubborn("nowhere", _hello, Node("a"), random.Random(0), None)
    task = asyncio.get_running_loop().create_task(link.run())
    await asyncio.sleep(0)  # it is under way
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=WAIT_S)
    assert done
    assert task.cancelled()
    assert link.tries == 1


def test_a_link_ends_when_it_is_cancelled_though_grpc_swallows_that() -> None:
    asyncio.run(_swallowed())


async def _refused(
    caplog: pytest.LogCaptureFixture, why: str, cluster: str, generation: int
) -> None:
    async with nodes("a", "b") as (a, b):
        a.peers.cluster_id, a.peers.generation = cluster, generation
        connect(a, b)
        async with asyncio.timeout(WAIT_S):
            while not any(why in str(getattr(record, "why", "")) for record in caplog.records):
                await asyncio.sleep(0.01)
        assert a.events == b.events == []


@pytest.mark.parametrize(
    ("why", "cluster", "generation"),
    [
        ("this is cluster ours, not theirs", "theirs", 2),
        ("is its coordination store an old backup", "ours", 1),
    ],
)
def test_who_must_not_talk_to_us_is_refused_and_told_why(
    caplog: pytest.LogCaptureFixture, why: str, cluster: str, generation: int
) -> None:
    caplog.set_level(logging.WARNING, logger="roost_node.replication.link")
    asyncio.run(_refused(caplog, why, cluster, generation))


def _hello(**changes: object) -> translate.Hello:
    hello = translate.Hello(
        StoreId("a"), SessionId(1), "ours", 2, translate.STREAM_VERSION, StoreId("b")
    )
    return msgspec.structs.replace(hello, **changes)


def _peers_alone() -> Peers:
    return Peers(StoreId("b"), "ours", 2, Node("b"), asyncio.TaskGroup(), random.Random(0))


def test_a_hello_is_checked_word_for_word() -> None:
    peers = _peers_alone()
    assert peers.refusal(_hello()) == ""
    assert peers.refusal(_hello(generation=3)) == ""
    assert "not c" in peers.refusal(_hello(to_store=StoreId("c")))
    assert "no second node" in peers.refusal(_hello(store=StoreId("b")))
    assert "not theirs" in peers.refusal(_hello(cluster_id="theirs"))
    assert "update this node first" in peers.refusal(_hello(version=2))


async def _other_tenant() -> None:
    async with nodes("a", "b") as (a, b):
        a.peers.set_peers(SessionId(1), {StoreId("c"): address(b)})
        connect(b, a)
        await b.until(lambda: b.count("link") == 1)
        assert a.count("link") == 0
        assert b.count("inbound") == 0


def test_an_address_with_another_tenant_is_not_spoken_to() -> None:
    asyncio.run(_other_tenant())


async def _silent_reader() -> None:
    """A node that takes the stream and reads no more."""
    count = 0

    async def follow(
        _: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> None:
        nonlocal count
        await context.read()
        count += 1
        await context.write(translate.welcome_frame(translate.Welcome(StoreId("b"), 1)))
        await asyncio.Event().wait()

    server = grpc.aio.server(options=OPTIONS)
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(follow)
    service, method = METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    a = Node("a")
    rows = SnapshotRows(SHARD, EPOCH, ((b"k", bytes(FRAME_BYTES // 2)),))
    async with asyncio.TaskGroup() as tasks:
        a.peers = Peers(a.store, "ours", 1, a, tasks, random.Random(0))
        a.peers.set_peers(SessionId(1), {StoreId("b"): f"127.0.0.1:{port}"})
        await a.until(lambda: a.count("link") == 1)
        sent = most = 0
        async with asyncio.timeout(WAIT_S):
            while a.count("link lost") == 0:
                events = len(a.events)
                a.peers.send(StoreId("b"), rows)
                assert len(a.events) == events, "the core is not called from within its own call"
                sent += 1
                most = max(most, a.peers.pending_bytes(StoreId("b")))
                await asyncio.sleep(0)
        assert most <= UNSENT_BYTES_MAX
        assert sent * FRAME_BYTES // 2 > UNSENT_BYTES_MAX
        await a.until(lambda: a.count("link") == 2)
        assert a.peers.pending_bytes(StoreId("b")) == 0
        await a.peers.close()
    await server.stop(0)
    assert count == 2


def test_a_reader_that_falls_too_far_behind_loses_its_stream() -> None:
    asyncio.run(_silent_reader())


async def _too_many_answers() -> None:
    """The other direction: an owner that takes no answers."""
    async with nodes("b") as (b,), grpc.aio.insecure_channel(address(b)) as channel:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        stream = method()
        await stream.write(translate.hello_frame(_hello()))
        await b.until(lambda: b.count("inbound") == 1)
        fetched = Fetched(SHARD, EPOCH, (LogEntry(EPOCH, 1, EPOCH, b"", 0, bytes(FRAME_BYTES)),))
        async with asyncio.timeout(WAIT_S):
            while b.count("inbound lost") == 0:
                events = len(b.events)
                b.peers.reply(StoreId("a"), 1, fetched)
                assert len(b.events) == events
                await asyncio.sleep(0)
        stream.cancel()


def test_an_owner_that_takes_no_answers_loses_its_stream() -> None:
    asyncio.run(_too_many_answers())


async def _second_stream() -> None:
    async with nodes("b") as (b,), grpc.aio.insecure_channel(address(b)) as channel:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        streams = [method(), method()]
        for number, stream in enumerate(streams, 1):
            await stream.write(translate.hello_frame(_hello(session=number)))
            await b.until(lambda n=number: b.count("inbound") == n)  # type: ignore[misc]
            welcome = await stream.read()
            assert isinstance(welcome, bytes)
            assert translate.read_welcome(welcome).store == "b"
        assert await streams[0].read() is grpc.aio.EOF
        await streams[1].write(translate.from_owner(Heartbeat(1)))
        await b.until(lambda: b.count("said") == 1)
        kinds = [(event[0], *event[2:]) for event in b.events]
        assert kinds == [
            ("inbound", 1, 1), ("inbound lost", 1), ("inbound", 2, 2), ("said", 2, Heartbeat(1)),
        ]  # fmt: skip
        await streams[1].write(b"\x12\x00")  # a message of no kind
        await b.until(lambda: b.count("inbound lost") == 2)


def test_a_second_stream_of_a_node_ends_its_first() -> None:
    asyncio.run(_second_stream())


async def _nonsense() -> None:
    async with nodes("b") as (b,), grpc.aio.insecure_channel(address(b)) as channel:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        stream = method()
        await stream.write(translate.from_owner(Heartbeat(1)))
        assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert b.events == []


def test_a_stream_begins_with_a_hello() -> None:
    asyncio.run(_nonsense())


async def _failing() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with nodes("a", "b") as (a, b):

            def fail(*_: object) -> None:
                raise AssertionError("L4")

            b.on_from_owner = fail  # type: ignore[assignment,method-assign]
            connect(a, b)
            await a.until(lambda: a.count("link") == 1)
            a.peers.send(b.store, Heartbeat(1))
            await asyncio.Event().wait()
    assert "L4" in str(caught.value.exceptions)


def test_a_core_that_fails_in_an_event_ends_the_tasks_owner() -> None:
    asyncio.run(_failing())


async def _frames() -> None:
    outbox = Outbox()
    parts = [bytes([n]) * (FRAME_BYTES // 3) for n in range(7)]
    for part in parts:
        assert outbox.put(part)
    frames = []
    while outbox.pending_bytes:
        frames.append(await outbox.frame())
        outbox.written(frames[-1])
    assert b"".join(frames) == b"".join(parts)
    assert [len(frame) // (FRAME_BYTES // 3) for frame in frames] == [3, 3, 1]
    assert outbox.put(bytes(3 * FRAME_BYTES))  # one that is larger goes alone
    outbox.put(b"x")
    assert len(await outbox.frame()) == 3 * FRAME_BYTES
    with pytest.raises(AssertionError, match="larger than a frame"):
        outbox.put(bytes(5 * FRAME_BYTES))


def test_messages_are_joined_into_frames_of_a_bounded_size() -> None:
    asyncio.run(_frames())


async def _gathering() -> None:
    outbox = Outbox(gather_s=3600)
    outbox.put(b"1")
    assert await outbox.frame() == b"1"  # nothing is to be waited for
    outbox.put(b"2")
    frame = asyncio.ensure_future(outbox.frame())
    for number in (b"3", b"4"):
        await asyncio.sleep(0)
        assert not frame.done()
        outbox.put(number)
    outbox.answered()
    assert await frame == b"234"
    outbox.answered()
    outbox.put(bytes(FRAME_BYTES))
    outbox.put(b"5")
    assert len(await outbox.frame()) == FRAME_BYTES
    assert await outbox.frame() == b"5"  # a large one is not waited for
    impatient = Outbox(gather_s=0.001)
    for number in (b"1", b"2"):
        impatient.put(number)
        assert await asyncio.wait_for(impatient.frame(), WAIT_S) == number  # without an answer


def test_what_is_said_while_an_answer_is_under_way_goes_out_together() -> None:
    asyncio.run(_gathering())
