"""What is known of a request already: join it, answer it again, say what became of it.

A record in the log or the state answers a call that wrote; an answer kept in memory one that may
write and did not (`core/dedup.py`); an open call is joined by its second attempt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from roost.cluster.ids import check_key, first_sent_ms
from roost.errors import (
    InvalidArgumentError,
    OutcomeUnknownError,
    RoostError,
    UnavailableError,
)
from roost.wire.messages import COMMITTED, EXPIRED, RUNNING, UNKNOWN, Call, Outcome, Query, Reply
from roost.wire.status import to_status
from roost_node.core.dedup import Age, age_of
from roost_node.host.activation import Activation
from roost_node.host.call import ActiveCall, Cancelled, Output, Sink
from roost_node.storage import layout, records

if TYPE_CHECKING:
    from roost_node.host.host import Host


ANSWERS_MAX = 65_536
ANSWERS_BYTES_MAX = 64 * 2**20
ANSWER_BYTES = 600  # what the smallest takes in memory, about


class Answer(NamedTuple):
    """What a call was answered that made no entry."""

    reply: Reply
    digest: bytes  # of method and arguments
    principal: str
    encoding: int


class Known:
    """Finds what an earlier attempt left behind."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def answer(self, activation: Activation, call: Call, sink: Sink, record_key: bytes) -> bool:
        """Answer a call that may write from what an earlier attempt left behind."""
        host = self._host
        if len(host.answers):
            answer = host.answers.get(activation.group, call.request_id)
            if answer is not None:
                if answer.digest != records.digest_of(call.method, call.arguments) or (
                    answer.principal != call.principal
                ):
                    raise InvalidArgumentError("request id reused: it belonged to another call")
                self._answer(activation, call, sink, answer.reply)
                return True
        record = activation.record_at(record_key)
        if record is None:
            return False
        if record.digest != records.digest_of(call.method, call.arguments) or (
            record.principal != call.principal
        ):
            raise InvalidArgumentError("request id reused: it belonged to another call")
        if record.status == 0 and activation.spec.methods[call.method].streams:
            raise OutcomeUnknownError(
                "an earlier attempt at this stream has run: its items are gone", retryable=False
            )
        self._answer(activation, call, sink, reply_of(record))
        return True

    def _answer(self, activation: Activation, call: Call, sink: Sink, reply: Reply) -> None:
        host = self._host
        host.telemetry.dedup_hits += 1
        if call.stub_id:
            host.arrivals.give_up(activation, call.stub_id, call.sequence)
        message = Reply(call.id, reply.status, reply.payload, reply.epoch, reply.error)
        activation.shard.release(activation.last_index, Output(sink, message), own_entry=True)

    def join(self, running: ActiveCall, call: Call, sink: Sink) -> ActiveCall | None:
        """A second attempt at a call that is still open."""
        first = running.call
        if (first.arguments, first.method, first.principal) != (
            call.arguments,
            call.method,
            call.principal,
        ):
            raise InvalidArgumentError("request id reused: it belongs to a call that is running")
        assert running.method is not None
        if running.method.streams and not running.started_entry:
            # Of a link that broke before anything had left: it makes room for this attempt.
            self._host.waits.stop(running, Cancelled.CALLER)
            raise UnavailableError("an earlier attempt at this stream is ending: send it again")
        if running.method.streams:
            raise OutcomeUnknownError("an earlier attempt at this stream is still running")
        if running.joined is None:
            running.joined = []
        elif len(running.joined) >= 16:
            running.joined.pop(0)  # whoever asked that often has forgotten its first attempts
        running.joined.append((sink, call.id))
        self._host.telemetry.dedup_hits += 1
        return running

    def query(self, query: Query, sink: Sink) -> None:
        """What became of a request?"""
        try:
            self._query(query, sink)
        except RoostError as error:
            status, info = to_status(error)
            sink.send(Outcome(query.id, UNKNOWN, status=status, error=info))

    def _query(self, query: Query, sink: Sink) -> None:
        host = self._host
        now_ms = host.now_ms()
        check_key(query.key)
        spec = host.objects.spec(query.class_name)
        shard = host.objects.shard_of(spec.name, query.key, now_ms)
        group = layout.object_id(spec.name, query.key)
        rid = query.request_id
        activation = host.activations.get((spec.name, query.key))
        outcome = Outcome(query.id, UNKNOWN, epoch=shard.log.epoch)
        age = Age.EXPIRED
        if len(rid) == 16:
            log_time_ms = shard.log.time_ms(now_ms)
            age = age_of(first_sent_ms(rid), log_time_ms, now_ms, shard.given_up_ms)
        if activation is not None and rid in activation.calls:
            outcome.state = RUNNING
        elif age is Age.EXPIRED:
            outcome.state = EXPIRED
        elif age is Age.AHEAD:
            pass  # it was never taken, and no record can be filed under such a time
        else:
            record = records.find_dedup(shard.get, shard.id, group, rid)
            answer = host.answers.get(group, rid)
            if record is not None:
                reply = reply_of(record)
                outcome.state, outcome.encoding = COMMITTED, record.encoding
                outcome.payload, outcome.status, outcome.error = (
                    reply.payload,
                    reply.status,
                    reply.error,
                )
            elif answer is not None:
                reply = answer.reply
                outcome.state, outcome.encoding = COMMITTED, answer.encoding
                outcome.payload, outcome.status, outcome.error = (
                    reply.payload,
                    reply.status,
                    reply.error,
                )
        shard.release(shard.log.last, Output(sink, outcome), own_entry=False)

    def remember(self, active: ActiveCall, reply: Reply) -> bool:
        """Keep the answer of a call that made no entry; True: it has one now."""
        host = self._host
        call = active.call
        digest = records.digest_of(call.method, call.arguments)
        now_ms = host.now_ms()
        activation = active.activation
        answer = Answer(reply, digest, call.principal, call.encoding)
        size_bytes = ANSWER_BYTES + len(reply.payload)
        if reply.error is not None:
            size_bytes += 4 * (len(reply.error.message) + len(reply.error.traceback))
        if host.answers.remember(
            activation.group, call.request_id, answer, size_bytes, active.deadline_ms, now_ms
        ):
            return False
        if reply.status == 0:
            record = records.encode_dedup_ok(
                call.method, call.arguments, reply.payload, call.encoding, call.principal
            )
        else:
            assert reply.error is not None
            record = records.encode_dedup_error(
                call.method, call.arguments, reply.status, reply.error, call.principal
            )
        activation.commit_record(active, record, now_ms)
        return True


def reply_of(record: records.DedupRecord) -> Reply:
    """The answer that a record holds."""
    if record.started:
        status, info = to_status(
            OutcomeUnknownError(
                "an interleaving call was cut off after it had started: it is not run again",
                retryable=False,
            )
        )
        return Reply(0, int(status), b"", 0, info)
    return Reply(0, record.status, record.payload, 0, record.error)
