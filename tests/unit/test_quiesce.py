"""Calls of a shard come to rest before it is handed over (H1)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from roost_node.core.output_gate import OutputGate
from roost_node.replication.handoff import quiesce


def test_a_shard_is_at_rest_only_when_its_answers_have_left() -> None:
    async def story() -> None:
        gate: OutputGate[str] = OutputGate(4)
        assert not gate.offer(5, "an answer", own_entry=False)
        host: Any = SimpleNamespace(
            objects=SimpleNamespace(live={}),
            loop=asyncio.get_running_loop(),
            limits=SimpleNamespace(grace_s=0, cancel_s=0, hook_s=0),
        )
        shard: Any = SimpleNamespace(id=3, gate=gate)
        resting = asyncio.create_task(quiesce(host, shard))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not resting.done()
        assert gate.on_committed(5) == ["an answer"]
        await resting

    asyncio.run(story())
