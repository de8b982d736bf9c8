"""The coordination store on etcd.

Each method is one transaction, or a read and a transaction that compares what was read. Which keys:
`keys.py`; how a request travels and what a failure means: `etcd_link.py`; the contract: `coordinator.py`.

A session's key carries the session's lease, so "holds this session" is a comparison of the key's lease,
and "is absent or holds another" is its opposite, because an absent key counts as one with lease 0 (O5).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import (
    NO_SESSION,
    OPERATIONS_MAX,
    Applied,
    ClusterConfig,
    DeathRecord,
    Event,
    Leader,
    Map,
    Order,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Transaction,
    Versioned,
    Wish,
    ordered,
)
from roost_node.ownership import etcd_pb2 as pb
from roost_node.ownership.coordinator import (
    DEATH_KEPT_S,
    RACES_MAX,
    Coordinator,
    CoordinatorDownError,
    CoordinatorRefusedError,
    Hint,
    Relist,
    Restored,
    SessionGoneError,
    UnansweredError,
    check_config,
    check_format,
    check_raise,
)
from roost_node.ownership.election import Standing, campaign
from roost_node.ownership.etcd_api import GRANT, KEEP_ALIVE, RANGE, REVOKE, TXN
from roost_node.ownership.etcd_link import PAUSE_S, EtcdLink, EtcdOptions, LeaseGoneError
from roost_node.ownership.etcd_transaction import (
    all_unchanged,
    created,
    delete,
    get,
    holds,
    kvs,
    put,
    resign,
    translate,
    unchanged,
)
from roost_node.ownership.keys import Keys, decode, encode

_log = logging.getLogger(__name__)


PAUSE_S_MAX = 1.0
"""Between two attempts to watch, when one after the other fails."""


class EtcdCoordinator(Coordinator):
    """One node's connection to etcd. Use it on one event loop."""

    def __init__(self, options: EtcdOptions) -> None:
        self.restored: Restored | None = None
        self._link = EtcdLink(options)
        self._keys = Keys(options.prefix)
        self._request_s = options.request_s
        self._seen = 0  # the highest revision of any answer
        self._cluster_id = 0
        self._sessions: dict[SessionId, tuple[StoreId, int]] = {}  # opened here: store, ttl

    # --- the cluster

    async def create(self, proposed: ClusterConfig) -> ClusterConfig:
        key = self._keys.config
        reply = await self._write(
            [created(key, 0)], [put(key, encode(proposed))], otherwise=[get(key)]
        )
        if reply.succeeded:
            return proposed
        return check_config(proposed, _config(kvs(reply, 0)))

    async def raise_format_level(self, level: int) -> ClusterConfig:
        keys = self._keys
        reply = await self._read([get(keys.config), get(*keys.sessions)])
        kv, config = kvs(reply, 0), _config(kvs(reply, 0))
        if config.format_level >= level:
            return config
        sessions = [decode(one.key, one.value, SessionInfo) for one in kvs(reply, 1)]
        check_raise(level, {info.store: info for info in sessions})
        raised = msgspec.structs.replace(config, format_level=level)
        revision = reply.header.revision
        conditions = [
            unchanged(keys.config, kv[0].mod_revision),
            all_unchanged(keys.sessions, revision),  # or a node that cannot write it came meanwhile
        ]
        reply = await self._write(conditions, [put(keys.config, encode(raised))])
        if not reply.succeeded:
            raise CoordinatorDownError(
                "nodes came or went while the format level was raised: again"
            )
        return raised

    # --- sessions

    async def open_session(self, info: SessionInfo, ttl_s: int) -> SessionId:
        session, key = await self._grant(ttl_s), self._keys.session(info.store)
        value = encode(msgspec.structs.replace(info, session=session))
        for _ in range(RACES_MAX):
            reply = await self._read([get(self._keys.config), get(key)])
            configs, older = kvs(reply, 0), kvs(reply, 1)
            check_format(info, _config(configs))
            conditions = [  # so that a lost request of ours, arriving late, replaces nobody
                unchanged(self._keys.config, configs[0].mod_revision),
                unchanged(key, older[0].mod_revision if older else 0),
            ]
            if (await self._write(conditions, [put(key, value, session)])).succeeded:
                self._sessions[session] = info.store, ttl_s
                return session
        raise CoordinatorDownError(f"other runs of store {info.store} register at the same time")

    async def keep_alive(self, session: SessionId) -> bool:
        store, ttl_s = self._sessions[session]
        loop = asyncio.get_running_loop()
        until = loop.time() + min(self._request_s, ttl_s / 4)  # so that there is time to try again
        request = pb.LeaseKeepAliveRequest(id=session)
        reply = await self._link.ask(KEEP_ALIVE, request, until - loop.time())
        if reply.ttl <= 0:
            return False
        # A lease outlives its key when the session was revoked (F2) or replaced.
        left_s = max(until - loop.time(), PAUSE_S)
        current = kvs(await self._read([get(self._keys.session(store))], left_s), 0)
        return bool(current) and current[0].lease == session

    async def update_session(self, info: SessionInfo) -> bool:
        key = self._keys.session(info.store)
        try:
            reply = await self._write(
                [holds(key, info.session)], [put(key, encode(info), info.session)]
            )
        except LeaseGoneError:
            return False
        return reply.succeeded

    async def close_session(self, session: SessionId) -> None:
        with contextlib.suppress(LeaseGoneError):
            await self._link.send(REVOKE, pb.LeaseRevokeRequest(id=session), self._request_s)

    # --- shards

    async def apply(self, wanted: Transaction) -> Applied:
        assert wanted.operations <= OPERATIONS_MAX, "more than the store takes at once"
        lease = await self._grant(DEATH_KEPT_S) if wanted.death is not None else NO_SESSION
        conditions, changes = translate(wanted, self._keys, lease)
        reply = await self._write(conditions, changes)
        return Applied(reply.succeeded, reply.header.revision)

    async def write_death(self, death: DeathRecord) -> None:
        lease = await self._grant(DEATH_KEPT_S)
        key = self._keys.session(death.store)
        end = put(self._keys.death(death.session), encode(death), lease)
        frees = resign(self._keys, death.session)
        await self._write([holds(key, death.session)], [delete(key), end, frees], [end, frees])

    async def read(self) -> Map:
        keys = self._keys
        spans = [
            *((keys.config,), keys.sessions, keys.deaths),
            *(keys.shards, keys.wishes, keys.drains, keys.pins),
        ]
        reply = await self._read([get(*span) for span in spans])  # one transaction, one revision
        sessions = [decode(kv.key, kv.value, SessionInfo) for kv in kvs(reply, 1)]
        deaths = [decode(kv.key, kv.value, DeathRecord) for kv in kvs(reply, 2)]
        drains = frozenset(decode(kv.key, kv.value, Order).store for kv in kvs(reply, 5))
        return Map(
            reply.header.revision,
            _config(kvs(reply, 0)),
            ordered({info.store: info for info in sessions}, drains),
            {death.session: death for death in deaths},
            dict(map(self._versioned, kvs(reply, 3))),
            {keys.shard_of(kv.key): decode(kv.key, kv.value, Wish) for kv in kvs(reply, 4)},
            drains,
            {keys.shard_of(kv.key): decode(kv.key, kv.value, Order).store for kv in kvs(reply, 6)},
        )

    async def read_shards(self, shards: Sequence[ShardId]) -> dict[ShardId, Versioned]:
        found: dict[ShardId, Versioned] = {}
        for start in range(0, len(shards), OPERATIONS_MAX):
            some = shards[start : start + OPERATIONS_MAX]
            reply = await self._read([get(self._keys.shard(shard)) for shard in some])
            for number in range(len(some)):
                found.update(map(self._versioned, kvs(reply, number)))
        return found

    def _versioned(self, kv: pb.KeyValue) -> tuple[ShardId, Versioned]:
        record = decode(kv.key, kv.value, ShardRecord)
        return self._keys.shard_of(kv.key), Versioned(kv.mod_revision, record)

    # --- what operators want

    async def drain(self, store: StoreId, wanted: bool) -> None:
        key = self._keys.drain(store)
        await self._write([], [put(key, encode(Order(store))) if wanted else delete(key)])

    async def pin(self, shard: ShardId, store: StoreId | None) -> None:
        key = self._keys.pin(shard)
        await self._write([], [delete(key) if store is None else put(key, encode(Order(store)))])

    async def raise_generation(self, event: Event) -> ClusterConfig:
        key = self._keys.config
        reply = await self._read([get(key)])
        kv, config = kvs(reply, 0), _config(kvs(reply, 0))
        if config.generation >= event.generation:
            return config
        raised = msgspec.structs.replace(config, generation=event.generation)
        changes = [put(key, encode(raised)), put(self._keys.event(event.id), encode(event))]
        reply = await self._write([unchanged(key, kv[0].mod_revision)], changes)
        if not reply.succeeded:
            raise CoordinatorDownError("the config was changed at the same time: again")
        return raised

    async def events(self) -> list[Event]:
        found = kvs(await self._read([get(*self._keys.events)]), 0)  # in the order of their ids
        return [decode(kv.key, kv.value, Event) for kv in found]

    # --- hints

    async def changes(self, after: int) -> AsyncIterator[Hint]:
        async with contextlib.aclosing(self._watch(self._keys.everything, after)) as hints:
            async for hint in hints:
                yield hint

    async def _watch(self, span: tuple[bytes, bytes], after: int) -> AsyncGenerator[Hint, None]:
        lost = ""  # why hints may have been lost since the last one
        pause_s = PAUSE_S
        while True:
            replies = self._link.watch(span, after + 1, self._request_s)
            try:
                async with contextlib.aclosing(replies):
                    async for reply in replies:
                        if reply.compact_revision:
                            after = max(reply.compact_revision, reply.header.revision)
                            lost = "compacted"
                            break
                        if reply.canceled:  # a refused one is created and canceled at once
                            _log.warning("watch refused", extra={"why": reply.cancel_reason})
                            break
                        if reply.created:
                            if await self._ran_back(reply, after):
                                after, lost = self._seen, "restored"
                                break  # or this watch waits for a revision far ahead
                            if lost:
                                yield Relist(lost)
                                lost = ""
                            continue
                        pause_s = PAUSE_S  # it works
                        for revision, keys in _by_revision(reply):
                            after = revision
                            yield self._keys.changed(revision, keys)
            except (CoordinatorDownError, CoordinatorRefusedError) as error:
                _log.info("no watch yet", extra={"error": error.message})
            lost = lost or "reconnected"
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_S_MAX)

    async def _ran_back(self, reply: pb.WatchResponse, after: int) -> bool:
        """Whether the store is older than what we saw; the member itself may only be behind."""
        if reply.header.revision >= after:
            return False
        now = (await self._read([get(self._keys.config)])).header.revision
        if now >= after:
            return False
        self.restored = self.restored or Restored(after, now)
        return True

    # --- the election

    async def campaign(self, session: SessionId) -> Leader:
        store, _ = self._sessions[session]
        key, own = self._keys.controller, self._keys.session(store)
        wanted = Leader(store, session)

        async def stand() -> Standing:
            try:
                reply = await self._write(
                    [created(key, 0), holds(own, session)],
                    [put(key, encode(wanted), session)],
                    otherwise=[get(key), get(own)],
                )
            except LeaseGoneError:
                raise SessionGoneError(f"session {session:x} of {store} ran out") from None
            if reply.succeeded:
                return Standing(wanted, reply.header.revision)
            current, mine = kvs(reply, 0), kvs(reply, 1)
            if not mine or mine[0].lease != session:
                raise SessionGoneError(f"session {session:x} of {store} cannot lead: it is gone")
            leader = decode(key, current[0].value, Leader) if current else None
            return Standing(leader, reply.header.revision)

        return await campaign(session, stand, lambda after: self._watch((key, key + b"\0"), after))

    async def leader(self) -> Leader | None:
        found = kvs(await self._read([get(self._keys.controller)]), 0)
        return decode(found[0].key, found[0].value, Leader) if found else None

    async def resign(self, session: SessionId) -> None:
        await self._write([], [resign(self._keys, session)])

    async def close(self) -> None:
        await self._link.close()

    # --- asking

    async def _grant(self, ttl_s: int) -> SessionId:
        request = pb.LeaseGrantRequest(ttl=ttl_s)
        try:
            return SessionId((await self._link.send(GRANT, request, self._request_s)).id)
        except UnansweredError as error:  # a lease without keys changes nothing, and runs out
            raise CoordinatorDownError(error.message) from None

    async def _write(
        self,
        conditions: list[pb.Compare],
        changes: list[pb.RequestOp],
        otherwise: Sequence[pb.RequestOp] = (),
    ) -> pb.TxnResponse:
        floor = self._seen
        request = pb.TxnRequest(compare=conditions, success=changes, failure=otherwise)
        reply = await self._link.send(TXN, request, self._request_s)
        self._observe(reply.header, floor)
        return reply

    async def _read(self, looks: list[pb.RequestOp], within_s: float = 0.0) -> pb.TxnResponse:
        """Linearizable: etcd asks a majority first whether it is up to date.

        One look is no transaction: etcd 3.5.0 to 3.5.4 panic when one that only reads is given up.
        """
        floor = self._seen
        within_s = within_s or self._request_s
        if len(looks) == 1:
            found = await self._link.ask(RANGE, looks[0].request_range, within_s)
            response = pb.ResponseOp(response_range=found)
            reply = pb.TxnResponse(header=found.header, responses=[response])
        else:
            reply = await self._link.ask(TXN, pb.TxnRequest(success=looks), within_s)
        self._observe(reply.header, floor)
        return reply

    def _observe(self, header: pb.ResponseHeader, floor: int) -> None:
        """A request sent after an answer at `floor` cannot be answered below it (O7)."""
        is_other = self._cluster_id not in (0, header.cluster_id)
        self._cluster_id = header.cluster_id
        if header.revision >= floor and not is_other:
            self._seen = max(self._seen, header.revision)
            return
        self.restored = Restored(floor, header.revision)
        self._seen = header.revision
        _log.error(
            "etcd answered at revision %d after %d%s: it was restored from a backup, or is another"
            " one; raise the cluster's generation",
            *(header.revision, floor, ", as another cluster" if is_other else ""),
        )


def _config(found: Sequence[pb.KeyValue]) -> ClusterConfig:
    if not found:
        raise CoordinatorRefusedError("there is no cluster at this prefix of etcd")
    return decode(found[0].key, found[0].value, ClusterConfig)


def _by_revision(reply: pb.WatchResponse) -> list[tuple[int, list[bytes]]]:
    """The keys of a reply's events, by the revision at which they changed."""
    keys: dict[int, list[bytes]] = {}
    for event in reply.events:
        keys.setdefault(event.kv.mod_revision, []).append(event.kv.key)
    return sorted(keys.items())
