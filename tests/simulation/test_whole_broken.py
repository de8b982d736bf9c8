"""Rules broken on purpose: the simulation of the whole cluster must notice each of these, too.

The many others are broken in the simulations of the parts; here are those that tie the parts together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest

from roost.cluster.ids import first_sent_ms
from roost.wire.messages import NO_EFFECT, Call, ErrorInfo, Status
from roost_node.core.log import Op
from roost_node.core.replication import effects
from roost_node.core.replication.messages import LogEntry
from roost_node.core.replication.owner import Owner, Phase
from roost_node.core.replication.replicas import Replicas
from roost_node.host.activation import Activation
from roost_node.host.call import Sink
from roost_node.host.committer import Committer
from roost_node.host.known import Known
from roost_node.replication import replicator as replicator_module
from roost_node.replication.bodies import merged
from roost_node.replication.generation import Believed
from roost_node.replication.inspector import Inspector
from roost_node.replication.replicator import Replicator
from roost_node.storage import layout
from roost_node.storage.memory import MemoryStore
from roost_router.frames import PlainWords
from simulator.history import ViolationError
from simulator.whole import SHARDS, Whole
from simulator.whole_run import play

pytestmark = pytest.mark.timeout(1200)  # some tens of seconds of CPU, on a busy machine
SEEDS_MAX = 150


def commit_on_own_disk(patch: pytest.MonkeyPatch) -> None:
    """R1: a reply leaves when the owner's own disk has its entry."""

    def advance(self: Owner) -> None:
        if self.durable > self.commit:
            self.commit = self.durable
            self._node.emit(effects.Commit(self.shard, self.durable))
            self._node.must_send(self.shard)

    patch.setattr(Owner, "_advance", advance)


def no_promise_wait(patch: pytest.MonkeyPatch) -> None:
    """P4, P5: a promoted replica serves at once."""
    patch.setattr(Owner, "has_waited", lambda self, now_ms: True)


def dedup_not_replicated(patch: pytest.MonkeyPatch) -> None:
    """L5: the records of calls stay with the owner that answered."""
    apply = Replicator._apply

    def apply_without(self: Replicator) -> None:
        ours = {shard.to_bytes(2, "big") for shard in self._shards}

        def without(entries: Iterable[LogEntry]) -> list[Op]:
            return [
                op
                for op in merged(entries)
                if not isinstance(op, tuple) or op[0][2:3] != layout.DEDUP or op[0][:2] in ours
            ]

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(replicator_module, "merged", without)
            apply(self)

    patch.setattr(Replicator, "_apply", apply_without)


def router_says_no(patch: pytest.MonkeyPatch) -> None:
    """A router's final word is "nothing happened", although an attempt may be under way."""
    reply = PlainWords.reply

    def no(self: PlainWords, status: Status, info: ErrorInfo) -> bytes:
        return reply(self, status, ErrorInfo(info.message, NO_EFFECT, info.type))

    patch.setattr(PlainWords, "reply", no)


def failed_flush_ignored(patch: pytest.MonkeyPatch) -> None:
    """R1: a flush that failed is taken for one that did not."""
    flushed = Committer._flushed
    patch.setattr(Committer, "_flushed", lambda self, failure: flushed(self, None))


def wiped_disk_keeps_its_name(patch: pytest.MonkeyPatch) -> None:
    """M6: an empty disk comes back as the store that it was, and counts as a copy."""

    def wipe(self: Whole, name: str) -> None:
        """No store is lost, it seems: its session lasts, as that of any node that lost its power."""
        self.kill(name, power=True, proven=False)
        machine = self.machines[name]
        machine.store = MemoryStore(shards=SHARDS, seed=b"whole", store_id=machine.store_id)

    patch.setattr(Whole, "wipe", wipe)


def handoff_keeps_serving(patch: pytest.MonkeyPatch) -> None:
    """H1: the old owner goes on while its handoff is under way."""
    patch.setattr(Owner, "is_silent", property(lambda self: self.phase is Phase.RECOVERING))


def old_record_is_news(patch: pytest.MonkeyPatch) -> None:
    """H1: a read from before a handoff, that comes after it, makes the old owner begin again."""
    patch.setattr(Replicas, "_is_outdated", lambda self, shard, versioned: False)


def records_kept_for_seconds(patch: pytest.MonkeyPatch) -> None:
    """L5: the record of a call is not looked for when the call was first sent ten seconds ago."""
    answer = Known.answer

    def forgetful(
        self: Known, activation: Activation, call: Call, sink: Sink, record_key: bytes
    ) -> bool:
        is_late = self._host.now_ms() - first_sent_ms(call.request_id) > 10_000
        return not is_late and answer(self, activation, call, sink, record_key)

    patch.setattr(Known, "answer", forgetful)


def restored_map_believed(patch: pytest.MonkeyPatch) -> None:
    """O7: a node acts on the map of an etcd that went back in time."""
    patch.setattr(Believed, "takes", lambda self, found, restored, again: True)


def audit_at_any_entry(patch: pytest.MonkeyPatch) -> None:
    """A1: a store hashes its state where it is when it is asked, whatever entry the question names."""
    look = Inspector.look
    patch.setattr(Inspector, "hold", lambda self, shard, commit: commit)
    patch.setattr(
        Inspector,
        "look",
        lambda self, _: look(self, {shard: one.piece.index for shard, one in self._asked.items()}),
    )


def bad_copy_is_believed(patch: pytest.MonkeyPatch) -> None:
    """A3: a copy that was found bad joins again on the word of its log."""
    patch.setattr(Owner, "_is_suspect", lambda self, peer: False)


VARIANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    commit_on_own_disk,
    no_promise_wait,
    dedup_not_replicated,
    router_says_no,
    failed_flush_ignored,
    wiped_disk_keeps_its_name,
    handoff_keeps_serving,
    old_record_is_news,
    records_kept_for_seconds,
    restored_map_believed,
    audit_at_any_entry,
    bad_copy_is_believed,
]
AIMED: dict[Callable[[pytest.MonkeyPatch], None], Callable[[int], object]] = {
    failed_flush_ignored: partial(play, favour=("flush_fails", "power")),
    wiped_disk_keeps_its_name: partial(play, favour=("wipe", "kill")),
    handoff_keeps_serving: partial(play, favour=("handoff_in_doubt",)),
    old_record_is_news: partial(play, favour=("late_reads",)),
    restored_map_believed: partial(play, restored=True),
    audit_at_any_entry: partial(play, rot=True),
    bad_copy_is_believed: partial(play, rot=True),
}
"""Where the faults that show it come in few runs."""
LIKELY: dict[Callable[[pytest.MonkeyPatch], None], int] = {
    commit_on_own_disk: 9,
    no_promise_wait: 5,
    router_says_no: 28,
    failed_flush_ignored: 1,
    wiped_disk_keeps_its_name: 52,
    handoff_keeps_serving: 10,
    old_record_is_news: 27,
}
"""Where a hunt from 0 found these: begin there, and look at all others if it moved."""


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
def test_a_broken_variant_is_caught(
    variant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    variant(monkeypatch)
    first = LIKELY.get(variant, 0)
    for seed in (*range(first, SEEDS_MAX), *range(first)):
        try:
            AIMED.get(variant, play)(seed)
        except (ViolationError, AssertionError) as violation:  # or the program noticed by itself
            print(f"{variant.__name__}: caught by seed {seed}: {str(violation)[:200]}")
            return
    pytest.fail(f"{variant.__name__} was not caught: the simulation is not good enough")
