"""What a caller without the SDK meets: reflection, health, `Invoke`; and `docs/GRPC.md`, which shows it.

The page's transcript was made with grpcurl. Here its commands are made again, in order, by a small
client that knows no more than grpcurl does: it asks reflection for every message it sends.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import roost
from behaviour.conftest import serving
from counter import Counter
from roost.adapters.serving import CODES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "GRPC.md"
VOLATILE = {"request_id", "created_ms", "changed_ms", "owner", "position"}
TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_DOUBLE: "double",
}


class Curl:
    """grpcurl, as far as the page uses it."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._reflection = ProtoReflectionDescriptorDatabase(self._channel)
        self._pool = descriptor_pool.DescriptorPool(self._reflection)

    def run(self, words: list[str]) -> Any:
        """A list of lines, JSON, or an error's two lines."""
        assert words.pop(0) == "-plaintext"
        data = "{}"
        if words[0] == "-d":
            data = words[1]
            words = words[2:]
        what = words[1]
        if what == "list" and len(words) == 2:
            return sorted(self._reflection.get_services())
        if what == "list":
            service = self._pool.FindServiceByName(words[2])
            return sorted(f"{service.full_name}.{method.name}" for method in service.methods)
        if what == "describe":
            message = self._pool.FindMessageTypeByName(words[2])
            fields = [f"  {TYPES[f.type]} {f.name} = {f.number};" for f in message.fields]
            head = [f"{message.full_name} is a message:", f"message {message.name} {{"]
            return [*head, *fields, "}"]
        return self._call(what, data)

    def _call(self, what: str, data: str) -> Any:
        service, name = what.split("/")
        method = self._pool.FindServiceByName(service).FindMethodByName(name)
        request = message_factory.GetMessageClass(method.input_type)()
        json_format.Parse(data, request, descriptor_pool=self._pool)
        call: Callable[..., Any] = self._channel.unary_unary(
            f"/{what}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        try:
            reply = call(request, timeout=20)
        except grpc.RpcError as error:
            code = error.code().name.title().replace("_", "")
            return ["ERROR:", f"  Code: {code}", f"  Message: {error.details()}"]
        return json_format.MessageToDict(
            reply, preserving_proto_field_name=True, descriptor_pool=self._pool
        )

    def close(self) -> None:
        self._channel.close()


def transcript() -> list[tuple[str, str]]:
    """(command, answer) of the page, in order."""
    steps: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.M | re.S):
        for step in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, answer = step.partition("\n")
            steps.append((command, answer.rstrip("\n")))
    return steps


def fixed(value: Any) -> Any:
    """Without what differs each time."""
    if isinstance(value, dict):
        return {k: "..." if k in VOLATILE else fixed(v) for k, v in value.items()}
    return [fixed(v) for v in value] if isinstance(value, list) else value


def follow_the_page(address: str) -> None:
    curl = Curl(address)
    fresh: dict[str, str] = {}
    try:
        for command, answer in transcript():
            program, *words = shlex.split(command)
            assert program == "grpcurl"
            if "-d" in words:
                at = words.index("-d") + 1
                data = json.loads(words[at])
                if old := data.get("request_id"):  # one id of the page, one id of today
                    data["request_id"] = fresh.setdefault(old, new_id())
                words[at] = json.dumps(data)
            got = curl.run(words)
            expected = json.loads(answer) if answer.startswith("{") else answer.splitlines()
            assert fixed(got) == fixed(expected), command
    finally:
        curl.close()


def new_id() -> str:
    return base64.b64encode(roost.new_request_id().bytes).decode()


def test_the_transcript_in_the_documentation_is_what_a_server_answers(tmp_path: Path) -> None:
    assert len(transcript()) >= 12

    async def story() -> None:
        async with serving(tmp_path, Counter) as server:
            await asyncio.to_thread(follow_the_page, f"127.0.0.1:{server.port}")

    asyncio.run(asyncio.wait_for(story(), 60))


def test_health_says_when_a_server_drains(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path, Counter) as server:
            curl = Curl(f"127.0.0.1:{server.port}")
            check = ["-plaintext", "-", "grpc.health.v1.Health/Check"]
            assert await asyncio.to_thread(curl.run, list(check)) == {"status": "SERVING"}
            await server.say_goodbye()
            assert await asyncio.to_thread(curl.run, list(check)) == {"status": "NOT_SERVING"}
            await asyncio.to_thread(curl.close)

    asyncio.run(asyncio.wait_for(story(), 60))


def test_the_table_of_statuses_is_that_of_the_server() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", PAGE.read_text(), re.M)
    listed = {status: code for code, names in rows for status in re.findall(r"\w+", names)}
    assert listed == {status.name: code.name for status, code in CODES.items()}


def test_a_stream_is_refused_by_invoke(tmp_path: Path) -> None:
    from chat import Room

    async def story() -> None:
        async with serving(tmp_path, Room) as server:
            curl = Curl(f"127.0.0.1:{server.port}")
            data = json.dumps({"class_name": "Room", "key": "a", "method": "history"})
            words = ["-plaintext", "-d", data, "-", "roost.v1.Objects/Invoke"]
            answer = await asyncio.to_thread(curl.run, words)
            assert answer[1] == "  Code: InvalidArgument"
            await asyncio.to_thread(curl.close)

    asyncio.run(asyncio.wait_for(story(), 60))
