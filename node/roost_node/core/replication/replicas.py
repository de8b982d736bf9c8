"""All shards of one node: the door to the replication cores.

The shell (or the simulator) hands in what happened: messages, durable writes, answers of the
coordination store, links that open and break, the time. It takes `effects` and carries them out in
order. Nothing here waits, reads a clock, or keeps the body of an entry.

Two facts about a shard decide everything: `Kept`, what our disk has of it, and whether we own it.
The owner is a replica like the others; its entries come from its own host instead of a stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import (
    NO_SESSION,
    DeathRecord,
    Epoch,
    How,
    SessionId,
    SessionInfo,
    StoreId,
    Versioned,
    Wish,
)
from roost_node.core.replication import effects, follower
from roost_node.core.replication.cover import PeerCover
from roost_node.core.replication.effects import Effect
from roost_node.core.replication.epochs import Shape
from roost_node.core.replication.follower import Accepted, Incoming, Kept
from roost_node.core.replication.messages import (
    Append,
    Appended,
    Fetch,
    Fetched,
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
    ToFollower,
    ToOwner,
)
from roost_node.core.replication.owner import Owner
from roost_node.core.replication.promises import LEASE_MS, Promises

HEARTBEAT_MS = 250

UNREACHABLE_MS = 2_000
"""After how much silence of a node whose session lives it is reported (ms)."""


class _Acknowledge(msgspec.Struct, frozen=True):
    """Say it on that stream, if it is still open."""

    peer: StoreId
    stream: int
    message: Registered | HeartbeatAck | Appended | Mismatch


class _EpochDurable(msgspec.Struct, frozen=True):
    """An owner may speak to others (O7)."""

    shard: ShardId
    epoch: Epoch


_Then = _Acknowledge | _EpochDurable


class Inbound:
    """Another node's stream to us: it speaks as owner of what it registers."""

    __slots__ = ("number", "registered", "session")

    def __init__(self, number: int, session: SessionId) -> None:
        self.number = number
        self.session = session
        self.registered: dict[ShardId, Epoch] = {}


class Replicas:
    """The replication of one node: its `Owner`s, its copies, its promises."""

    def __init__(
        self,
        me: StoreId,
        kept: Mapping[ShardId, Kept],
        started_ms: int,
        *,
        min_in_sync: int,
        lease_ms: int = LEASE_MS,
    ) -> None:
        self.me = me
        self.session: SessionId = NO_SESSION
        self.min_in_sync = min_in_sync
        self.kept: dict[ShardId, Kept] = dict(kept)
        self.owners: dict[ShardId, Owner] = {}
        self.promises = Promises(started_ms, lease_ms)
        self.sessions: dict[StoreId, SessionInfo] = {}
        self.etcd_ms = -(1 << 62)
        self._lease_ms = lease_ms
        self._effects: list[Effect] = []
        self.has_lost = False  # a shard: that is to be carried out before a call of it goes on
        self._covers: dict[StoreId, PeerCover] = {}
        self._links: set[StoreId] = set()  # our streams that are open
        self._inbound: dict[StoreId, Inbound] = {}
        self._streams = 0
        self._token = 0
        self._written = 0  # number of the last write that was ordered
        self._durable = 0  # and of the last that is on the disk
        self._waiting: deque[tuple[int, _Then]] = deque()  # what waits for a durable write
        self._wishes: dict[ShardId, Wish] = {}
        self._heartbeat_ms = -(1 << 62)
        self._heard_ms: dict[StoreId, int] = {}
        self._unsent: dict[ShardId, None] = {}  # owners with something to send, in order
        self._revisions: dict[ShardId, int] = {}  # of each record, the highest that we know of
        self._stirred: set[ShardId] = set()  # owners that have news to act on in the next tick

    # -- what owners share -----------------------------------------------------------------

    def emit(self, effect: Effect) -> None:
        """Order something."""
        self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """What is to be done, in order."""
        taken, self._effects = self._effects, []
        self.has_lost = False
        return taken

    def cover_of(self, peer: StoreId) -> PeerCover:
        """What that node has promised to our session."""
        cover = self._covers.get(peer)
        if cover is None:
            cover = self._covers[peer] = PeerCover(self._lease_ms)
        return cover

    def is_linked(self, peer: StoreId) -> bool:
        """Is our stream to it open?"""
        return peer in self._links

    def token(self) -> int:
        """A number that was not used before."""
        self._token += 1
        return self._token

    def must_send(self, shard: ShardId) -> None:
        """`flush` is to ask that owner."""
        self._unsent[shard] = None

    def kept_of(self, shard: ShardId) -> Kept:
        """Our own copy."""
        kept = self.kept.get(shard)
        if kept is None:
            kept = self.kept[shard] = Kept()
        return kept

    # -- session ---------------------------------------------------------------------------

    def on_session(self, session: SessionId) -> None:
        """Registered: this process is `session` now."""
        assert not self.owners, "O4: nothing is carried over into a new session"
        self._revisions.clear()  # a coordination store that was restored counts anew
        self.session = session

    def on_session_lost(self) -> None:
        """O4: drop ownership, reads and received promises; keep what we promised and refuse."""
        for shard in list(self.owners):
            self._lose(shard)
        self.session = NO_SESSION
        self.sessions = {}  # whom we have not heard for long is asked anew, too (F2)
        self._covers.clear()
        self._links.clear()  # streams belong to a session

    def on_suspended(self) -> None:
        """The machine slept: what others promised meanwhile may have run out (P3)."""
        for cover in self._covers.values():
            cover.drop()

    # -- news of the record ----------------------------------------------------------------

    def on_news(
        self,
        shards: Mapping[ShardId, Versioned],
        sessions: Mapping[StoreId, SessionInfo],
        deaths: Mapping[SessionId, DeathRecord],
        begun_ms: int,
        now_ms: int,
    ) -> None:
        """A linearizable read, begun at `begun_ms`: records and sessions of one revision (P4)."""
        for store, info in sessions.items():
            known = self.sessions.get(store)
            if known is None or known.session != info.session:
                self._heard_ms[store] = now_ms  # it has just come
        has_left = not _staying(self.sessions) <= _staying(sessions)
        self.sessions = dict(sessions)
        self.etcd_ms = max(self.etcd_ms, begun_ms)
        for shard, versioned in shards.items():
            self._on_record(shard, versioned, deaths, now_ms)
        if has_left:
            for owner in self.owners.values():
                owner.on_tick(now_ms)  # commits wait for whoever left (M5)

    def _on_record(
        self,
        shard: ShardId,
        versioned: Versioned,
        deaths: Mapping[SessionId, DeathRecord],
        now_ms: int,
    ) -> None:
        """A record as it was at some revision."""
        owner = self.owners.get(shard)
        if owner is not None and not owner.on_read(versioned, now_ms):
            self._depose(shard, versioned)
            owner = None
        if self._is_outdated(shard, versioned):
            return
        self._revisions[shard] = versioned.revision
        if owner is None and self._is_ours(versioned):
            self._take(shard, versioned, self.sessions, deaths, now_ms)

    def _is_outdated(self, shard: ShardId, versioned: Versioned) -> bool:
        """H1: a read from before our handoff must not make us the owner again, at an epoch that is over."""
        return versioned.revision < self._revisions.get(shard, 0)

    def on_wishes(self, wishes: Mapping[ShardId, Wish]) -> None:
        """What the plan wants."""
        self._wishes.update(wishes)
        for shard, owner in self.owners.items():
            wish = self._wishes.get(shard)
            if wish != owner.wish:
                owner.wish = wish
                self._stirred.add(shard)

    def on_change_answered(
        self, shard: ShardId, token: int, succeeded: bool | None, revision: int, now_ms: int
    ) -> None:
        """The answer to a `Change`; None: outcome unknown."""
        owner = self.owners.get(shard)
        if owner is not None and not owner.on_change_answered(token, succeeded, revision, now_ms):
            handed = Versioned(owner.members.revision, owner.members.record)
            self._revisions[shard] = handed.revision
            self._depose(shard, handed)

    def _depose(self, shard: ShardId, versioned: Versioned) -> None:
        """The record names another owner: it, and everybody who asks us, is to know."""
        self._lose(shard)
        self.emit(effects.Moved(shard, versioned))
        record = versioned.record
        if record.how is How.HANDOFF and record.previous == self.session:
            message = HandedOver(shard, record.epoch, versioned.revision, record)
            for peer in sorted(self._links):
                self.emit(effects.ToPeer(peer, message))

    def _is_ours(self, versioned: Versioned) -> bool:
        record = versioned.record
        return (
            self.session != NO_SESSION
            and record.owner == self.me
            and record.session == self.session
        )

    def _take(
        self,
        shard: ShardId,
        versioned: Versioned,
        sessions: Mapping[StoreId, SessionInfo],
        deaths: Mapping[SessionId, DeathRecord],
        now_ms: int,
    ) -> None:
        """The record says that this session owns the shard."""
        record, kept = versioned.record, self.kept_of(shard)
        if record.epoch < kept.seen:
            return  # O7: the coordination store runs backwards
        wait_until_ms = now_ms
        if record.how is How.FAILOVER:
            live = {info.session for info in sessions.values()}
            wait_until_ms = self.promises.owed_until_ms(live, deaths)
        self._see(shard, kept, record.epoch)
        owner = Owner(self, shard, versioned, kept.shape, wait_until_ms, now_ms)
        owner.wish = self._wishes.get(shard)
        self.owners[shard] = owner
        self._after(_EpochDurable(shard, record.epoch), now_ms)

    def _see(self, shard: ShardId, kept: Kept, epoch: Epoch) -> None:
        """O7: refuse lower epochs from now on, here and on the disk; say so (P2)."""
        if epoch <= kept.seen:
            return
        kept.seen = epoch
        self._write(shard, kept)
        for peer, inbound in self._inbound.items():
            registered = inbound.registered.get(shard)
            if registered is not None and registered < epoch:
                del inbound.registered[shard]
                self._say(peer, inbound, Refused(shard, registered, epoch))

    def _lose(self, shard: ShardId) -> None:
        owner = self.owners.pop(shard)
        for peer in owner.progress:
            self.cover_of(peer).forget(shard)
        self.kept_of(shard).commit = max(self.kept_of(shard).commit, owner.commit)
        self.emit(effects.LoseShard(shard, owner.epoch))
        self.has_lost = True

    # -- writes ----------------------------------------------------------------------------

    def _write(
        self,
        shard: ShardId,
        kept: Kept,
        cut: int = -1,
        entries: tuple[LogEntry, ...] = (),
        mark: bool | None = None,
    ) -> None:
        self._written += 1
        self.emit(effects.Write(self._written, shard, kept.seen, cut, entries, mark))

    def _take_entries(self, shard: ShardId, kept: Kept, accepted: Accepted) -> None:
        """Put what was accepted into our log."""
        if not accepted.entries and accepted.cut < 0:
            return
        kept.shape = follower.after(kept.shape, accepted)
        if accepted.entries:
            kept.hash = accepted.entries[-1].hash
        mark = False if kept.marked else None  # it was empty, and is a copy again (M7)
        kept.marked = False
        self._write(shard, kept, accepted.cut, accepted.entries, mark)

    def _after(self, then: _Then, now_ms: int) -> None:
        """Do it once everything written so far is durable."""
        if self._written == self._durable:
            self._do(then, now_ms)
        else:
            self._waiting.append((self._written, then))

    def on_durable(self, number: int, now_ms: int) -> None:
        """Every write up to `number` is on the disk."""
        self._durable = max(self._durable, number)
        while self._waiting and self._waiting[0][0] <= number:
            self._do(self._waiting.popleft()[1], now_ms)

    def _do(self, then: _Then, now_ms: int) -> None:
        if isinstance(then, _Acknowledge):
            self._acknowledge(then)
            return
        owner = self.owners.get(then.shard)
        if owner is not None and owner.epoch == then.epoch:  # else it was lost meanwhile
            owner.on_epoch_durable(now_ms)

    def on_own_durable(self, shard: ShardId, epoch: Epoch, index: int, now_ms: int) -> None:
        """Entries that this owner's host made are on the disk up to `index`."""
        owner = self.owners.get(shard)
        if owner is not None and owner.epoch == epoch:
            owner.on_durable(index, now_ms)

    def _acknowledge(self, then: _Acknowledge) -> None:
        """Say what waited for the disk; not what a higher epoch has overtaken meanwhile."""
        inbound = self._inbound.get(then.peer)
        if inbound is None or inbound.number != then.stream:
            return
        message = then.message
        if not isinstance(message, HeartbeatAck) and (
            message.epoch < self.kept_of(message.shard).seen
        ):
            return
        self._say(then.peer, inbound, message)

    def _say(self, peer: StoreId, inbound: Inbound, message: ToOwner) -> None:
        self.emit(effects.Reply(peer, inbound.number, message))

    # -- the log of an owner ---------------------------------------------------------------

    def on_appended(self, shard: ShardId, index: int, running_hash: bytes, now_ms: int) -> None:
        """Our host made an entry of a shard that we own; `on_own_durable` follows."""
        owner, kept = self.owners[shard], self.kept_of(shard)
        owner.on_appended(index, now_ms)
        kept.shape = owner.shape
        kept.hash = running_hash
        if index == owner.shape.end and owner.is_waiting:
            owner.on_opened(now_ms)

    def flush(self) -> None:
        """Send what was appended; called once for many entries."""
        unsent, self._unsent = self._unsent, {}
        for shard in unsent:
            if shard in self.owners:
                self.owners[shard].send()

    def on_trimmed(self, shard: ShardId, base: int) -> None:
        """The shell cut the log of a shard: entries up to `base` are in the state only (L6)."""
        kept = self.kept_of(shard)
        kept.shape = kept.shape.trimmed(base)
        owner = self.owners.get(shard)
        if owner is not None:
            owner.shape = kept.shape

    # -- streams ---------------------------------------------------------------------------

    def on_link(self, peer: StoreId, now_ms: int) -> None:
        """Our stream to that node is open, in the name of our session."""
        self._links.add(peer)
        for owner in self.owners.values():
            owner.on_link(peer, now_ms)
        self._beat(peer, now_ms)

    def on_link_lost(self, peer: StoreId) -> None:
        """It broke."""
        self._links.discard(peer)
        self.cover_of(peer).on_stream_lost()
        for owner in self.owners.values():
            owner.on_link_lost(peer)

    def on_inbound(self, peer: StoreId, session: SessionId) -> int:
        """Another node opened a stream to us; its number. The older one is void."""
        self._streams += 1
        self._inbound[peer] = Inbound(self._streams, session)
        return self._streams

    def on_inbound_lost(self, peer: StoreId, stream: int) -> None:
        """It broke."""
        inbound = self._inbound.get(peer)
        if inbound is not None and inbound.number == stream:
            del self._inbound[peer]

    # -- as follower -----------------------------------------------------------------------

    def on_from_owner(self, peer: StoreId, stream: int, message: ToFollower, now_ms: int) -> None:
        """Another node's stream said something."""
        inbound = self._inbound.get(peer)
        if inbound is None or inbound.number != stream:
            return
        if isinstance(message, Heartbeat):
            self.promises.give(inbound.session, now_ms)  # P1
            self._after(_Acknowledge(peer, stream, HeartbeatAck(message.number)), now_ms)
            return
        if isinstance(message, HandedOver):
            if message.record.how is How.HANDOFF:  # as good as a read: there is no wait (P4)
                handed = Versioned(message.revision, message.record)
                self._on_record(message.shard, handed, {}, now_ms)
            return
        shard, kept = message.shard, self.kept_of(message.shard)
        if not follower.listens_to(kept, message.epoch):
            inbound.registered.pop(shard, None)
            self._say(peer, inbound, Refused(shard, message.epoch, kept.seen))
            return
        owner = self.owners.get(shard)
        if owner is not None:
            if owner.epoch >= message.epoch:
                return  # an epoch has one owner: this is not its
            self._lose(shard)
        self._see(shard, kept, message.epoch)
        inbound.registered[shard] = message.epoch
        self._on_shard(peer, stream, kept, message, now_ms)

    def _on_shard(
        self,
        peer: StoreId,
        stream: int,
        kept: Kept,
        message: Register | Append | Fetch | SnapshotBegin | SnapshotEnd,
        now_ms: int,
    ) -> None:
        if isinstance(message, Register):
            if kept.incoming is not None:  # what was sent on an older stream will not go on
                kept.incoming = None
                self._wipe(message.shard, kept)
            said = Registered(message.shard, message.epoch, kept.shape)
            self._after(_Acknowledge(peer, stream, said), now_ms)
        elif isinstance(message, Append):
            self._append(peer, stream, kept, message, now_ms)
        elif isinstance(message, Fetch):
            if message.after < kept.shape.base:  # it was cut since we showed it
                said = Registered(message.shard, message.epoch, kept.shape)
                self._after(_Acknowledge(peer, stream, said), now_ms)
                return
            self.emit(
                effects.SendFetched(peer, stream, message.shard, message.epoch, message.after)
            )
        elif isinstance(message, SnapshotBegin):
            kept.incoming = Incoming(message.epoch, message.shape, message.hash)
            self._wipe(message.shard, kept)
        elif kept.incoming is not None and kept.incoming.epoch == message.epoch:
            kept.shape, kept.hash = kept.incoming.shape, kept.incoming.hash
            kept.commit = kept.shape.end
            kept.incoming, kept.marked = None, False
            self._write(message.shard, kept, mark=False)
            done = Appended(message.shard, message.epoch, kept.shape.end, kept.hash)
            self._after(_Acknowledge(peer, stream, done), now_ms)

    def _wipe(self, shard: ShardId, kept: Kept) -> None:
        """M7: from here until the mark is gone the copy counts as empty, in a restart too."""
        kept.shape, kept.hash, kept.commit, kept.marked = Shape((), 0), b"", 0, True
        self._write(shard, kept, mark=True)

    def _append(self, peer: StoreId, stream: int, kept: Kept, message: Append, now_ms: int) -> None:
        if kept.incoming is not None:
            return  # a snapshot is under way: what follows it comes again
        accepted = follower.accept(kept.shape, message)
        if accepted is None:
            said = Mismatch(message.shard, message.epoch, kept.shape)
            self._after(_Acknowledge(peer, stream, said), now_ms)
            return
        self._take_entries(message.shard, kept, accepted)
        known = kept.hash if accepted.match == kept.shape.end else b""
        said_ok = Appended(message.shard, message.epoch, accepted.match, known)
        self._after(_Acknowledge(peer, stream, said_ok), now_ms)
        commit = min(message.commit, accepted.match)
        if commit > kept.commit:
            kept.commit = commit
            self.emit(effects.Commit(message.shard, commit))

    # -- as owner --------------------------------------------------------------------------

    def on_from_follower(self, peer: StoreId, message: ToOwner, now_ms: int) -> None:
        """An answer on our stream to that node."""
        if peer not in self._links:
            return
        if isinstance(message, HeartbeatAck):
            if self.cover_of(peer).on_acked(message.number) >= 0:
                self._heard_ms[peer] = now_ms
                for each in self.owners.values():
                    progress = each.progress.get(peer)
                    if progress is not None and not progress.refused:
                        progress.heard(now_ms)
            return
        owner = self.owners.get(message.shard)
        if owner is None or owner.epoch != message.epoch:
            return  # L2: anything else is ignored
        if isinstance(message, Appended):
            kept = self.kept_of(message.shard)
            known = kept.hash if message.index == kept.shape.end else b""
            if known and message.hash and message.hash != known:
                self.emit(effects.Diverged(message.shard, peer, message.index))
                return  # never counted, never repaired silently
            owner.on_acked(peer, message, now_ms)
        elif isinstance(message, Registered):
            owner.on_registered(peer, message, now_ms)
        elif isinstance(message, Refused):
            owner.on_refused(peer, message, now_ms)
        elif isinstance(message, Mismatch):
            owner.on_mismatch(peer, message, now_ms)
        else:
            self._on_fetched(owner, peer, message, now_ms)

    def _on_fetched(self, owner: Owner, peer: StoreId, message: Fetched, now_ms: int) -> None:
        entries = owner.on_fetched(peer, message, now_ms)
        if not entries:
            return
        kept = self.kept_of(owner.shard)
        append = Append(
            owner.shard,
            owner.epoch,
            entries[0].index - 1,
            entries[0].previous_epoch,
            entries,
            0,
        )
        accepted = follower.accept(kept.shape, append)
        if accepted is not None:
            self._take_entries(owner.shard, kept, accepted)
        owner.on_adopted(kept.shape, now_ms)

    def unreachable(self, now_ms: int) -> tuple[StoreId, ...]:
        """Live nodes that have not answered our heartbeats for long (F2)."""
        return tuple(
            sorted(
                store
                for store in self.sessions
                if store != self.me and now_ms - self._heard_ms[store] > UNREACHABLE_MS
            )
        )

    def stuck_on(self, now_ms: int) -> tuple[StoreId, ...]:
        """Those of them that shards of ours wait for and may not remove (F2, M3)."""
        silent = self.unreachable(now_ms)
        needed = {member for owner in self.owners.values() for member in owner.irremovable()}
        return tuple(store for store in silent if store in needed)

    # -- time ------------------------------------------------------------------------------

    def on_tick(self, now_ms: int) -> None:
        """Some milliseconds have passed."""
        if now_ms - self._heartbeat_ms >= HEARTBEAT_MS:
            self._heartbeat_ms = now_ms
            for peer in sorted(self._links):
                self._beat(peer, now_ms)
            self.promises.forget_lapsed(now_ms)
            due = list(self.owners.values())
            for owner in due:
                owner.send(commit=True)
        else:
            due = [o for o in self.owners.values() if o.is_restless or o.shard in self._stirred]
        self._stirred.clear()
        for owner in due:
            owner.on_tick(now_ms)
        self.flush()

    def _beat(self, peer: StoreId, now_ms: int) -> None:
        self.emit(effects.ToPeer(peer, Heartbeat(self.cover_of(peer).heartbeat(now_ms))))


def _staying(sessions: Mapping[StoreId, SessionInfo]) -> set[StoreId]:
    """Those that do not say that they will end."""
    return {store for store, info in sessions.items() if not info.stopping}
