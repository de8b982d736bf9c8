"""The examples do what they say, in process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import chat
import counter
import document
import roost
import smart_home

Scenario = Callable[[roost.Cluster], Awaitable[None]]


def play(path: Path, scenario: Scenario, *classes: type[Any]) -> None:
    async def work() -> None:
        async with roost.local(*classes, path=path) as cluster:
            await scenario(cluster)

    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_counter_counts_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    async def count(cluster: roost.Cluster) -> None:
        page = cluster.object(counter.Counter, "page-42")
        before = await page.value()
        assert await page.increment(by=2) == before + 2

    play(tmp_path, count, counter.Counter)
    play(tmp_path, count, counter.Counter)


def test_a_room_numbers_its_messages_and_refuses_empty_ones(tmp_path: Path) -> None:
    async def talk(cluster: roost.Cluster) -> None:
        lobby = cluster.object(chat.Room, "lobby")
        assert [await lobby.post("ann", "hello"), await lobby.post("bob", "hi")] == [1, 2]
        with pytest.raises(chat.EmptyTextError):
            await lobby.post("ann", "  ")
        assert [m.text for m in await lobby.latest(1)] == ["hi"]
        assert [m.author async for m in lobby.history()] == ["ann", "bob"]
        assert await lobby.join("eve") == 3

    play(tmp_path, talk, chat.Room)


def test_edits_of_a_document_are_merged_or_refused(tmp_path: Path) -> None:
    async def write(cluster: roost.Cluster) -> None:
        doc = cluster.object(document.Document, "readme")
        await doc.edit("ann", 0, 0, 0, "one two three")
        await doc.edit("bob", 1, 4, 3, "TWO AND A HALF")
        merged = await doc.edit("ann", 1, 8, 5, "3")  # she has not seen bob's edit
        assert merged.version == 3
        assert merged.at == 8 + len("TWO AND A HALF") - len("two")
        assert (await doc.read()).text == "one TWO AND A HALF 3"
        with pytest.raises(document.EditConflictError, match="bob changed that in version 2"):
            await doc.edit("eve", 1, 5, 1, "")
        with pytest.raises(document.EditConflictError):
            await doc.edit("eve", 9, 0, 0, "x")
        assert (await doc.read_version(1)).text == "one two three"
        assert [e.version async for e in doc.edits(after=1)] == [2, 3]

    play(tmp_path, write, document.Document)


def test_whoever_follows_a_document_sees_every_edit_once_and_in_order(tmp_path: Path) -> None:
    count = document.SNAPSHOT_EVERY + 20

    async def follow(cluster: roost.Cluster) -> None:
        doc = cluster.object(document.Document, "log")
        seen: list[int] = []

        async def read() -> None:
            reader = cluster.object(document.Document, "log")
            async for edit in reader.edits(follow=True):
                seen.append(edit.version)
                if edit.version == count:
                    return

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read())
            for number in range(count):
                await doc.edit("ann", number, number, 0, "x")
        assert seen == list(range(1, count + 1))
        old = await doc.read_version(count - 5)  # from the snapshot, not from the beginning
        assert (old.version, len(old.text)) == (count - 5, count - 5)

    play(tmp_path, follow, document.Document)


def test_a_sensor_tells_its_room_and_the_room_heats(tmp_path: Path) -> None:
    async def live(cluster: roost.Cluster) -> None:
        home = cluster.object(smart_home.Home, "mine")
        for name in ("kitchen", "attic"):
            await home.add_room(name)
        assert await home.add_room("attic") == 2
        sensor = cluster.object(smart_home.Sensor, "s-1")
        with pytest.raises(smart_home.NotPlacedError):
            await sensor.report(17.0)
        await sensor.place("kitchen")
        assert await sensor.report(17.0) is True
        assert await sensor.report(20.2) is True  # within the hysteresis: as before
        assert await sensor.report(21.0) is False
        await sensor.place("attic")
        kitchen, attic = await home.overview()
        assert (kitchen.sensors, kitchen.celsius) == (0, None)
        assert (attic.sensors, attic.celsius, attic.heating) == (1, 21.0, False)
        assert await cluster.object(smart_home.Room, "attic").set_target(23.0) is True

    play(tmp_path, live, smart_home.Sensor, smart_home.Room, smart_home.Home)
