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
        path.name: path.read_bytes() for path in (ROOT / "client/roost/v1").glob("*_pb2*.py*")
    }
    assert fresh == committed, "stale: run `make proto` and commit the result"


def test_statuses_have_the_same_numbers_on_both_sides_of_the_door() -> None:
    assert {s.name: int(s) for s in messages.Status} == dict(types_pb2.Status.items())
    assert dict(types_pb2.Encoding.items()) == {"MSGPACK": messages.MSGPACK, "JSON": messages.JSON}
    states = dict(objects_pb2.OutcomeReply.State.items())
    assert states == {
        name: getattr(messages, name) for name in ("UNKNOWN", "RUNNING", "COMMITTED", "EXPIRED")
    }
