"""The committed generated code is what the committed .proto files generate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from roost.v1 import objects_pb2, types_pb2
from roost.wire import messages

ROOT = Path(__file__).resolve().parents[2]


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "proto/generate.py", tmp_path], check=True)
    fresh = {path.name: path.read_bytes() for path in tmp_path.rglob("*_pb2*")}
    committed = {
        path.name: path.read_bytes()
        for folder in ("client/roost/v1", "node/roost_node/ownership")
        for path in (ROOT / folder).glob("*_pb2*.py*")
    }
    assert fresh == committed, "stale: run `make proto` and commit the result"


def test_statuses_have_the_same_numbers_on_both_sides_of_the_door() -> None:
    assert {s.name: int(s) for s in messages.Status} == dict(types_pb2.Status.items())
    assert dict(types_pb2.Encoding.items()) == {"MSGPACK": messages.MSGPACK, "JSON": messages.JSON}
    states = dict(objects_pb2.OutcomeReply.State.items())
    assert states == {
        name: getattr(messages, name) for name in ("UNKNOWN", "RUNNING", "COMMITTED", "EXPIRED")
    }


def test_the_closed_frames_are_the_frames_with_their_messages_closed() -> None:
    from google.protobuf.descriptor import FieldDescriptor

    from roost.v1 import forward_pb2, objects_pb2

    for open_frame, closed in (
        (objects_pb2.ClientFrame, forward_pb2.ClosedClientFrame),
        (objects_pb2.ServerFrame, forward_pb2.ClosedServerFrame),
    ):
        theirs = {field.name: field for field in open_frame.DESCRIPTOR.fields}
        ours = {field.name: field for field in closed.DESCRIPTOR.fields}
        assert {n: f.number for n, f in theirs.items()} == {n: f.number for n, f in ours.items()}
        for name, field in ours.items():
            if field.type == FieldDescriptor.TYPE_BYTES:
                # Closed: a middleman gives it another id by appending field 1.
                message = theirs[name].message_type
                assert message is not None
                assert message.name == "Skip" or message.fields_by_number[1].name == "id"
            else:
                assert field.message_type == theirs[name].message_type
