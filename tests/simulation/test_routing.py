"""Routers under every fault they must survive, by seed; and broken variants that must be caught."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from roost import stub as stub_module
from roost.stub import Order
from roost.wire.messages import Status
from roost_router.core import retry
from roost_router.core.calls import Forwarded, Link
from roost_router.core.forward import Forwarder
from simulator.routing import World
from simulator.routing_callers import Asked, Caller

CALLERS = 3
STUBS = 3
AT_ONCE = 3
CALLS = 15
PAUSE_MS = 600


def work(world: World) -> list[str]:
    """Callers call; then everything heals; every call must have ended well, once and in order."""
    callers = [Caller(world, number) for number in range(CALLERS)]
    left = [CALLERS * STUBS * CALLS]

    def chain(caller: Caller, key: str, order: Order, count: int) -> None:
        def ended(asked: Asked) -> None:
            left[0] -= 1
            if asked.error is not None:
                world.failures.append(f"{key}: {type(asked.error).__name__}: {asked.error}")
            world.time.after(world.rng.random() * PAUSE_MS, begin)

        started = 0

        def begin() -> None:
            nonlocal started
            if started < count:
                started += 1
                caller.call(key, order, ended)

        for _ in range(AT_ONCE):
            begin()

    for number, caller in enumerate(callers):
        for stub in range(STUBS):
            chain(caller, f"k{(number + stub) % 4}", Order(), CALLS)

    def heal() -> None:
        world.faulty = False  # what is frozen stays so: its shards have other owners

    world.time.after(6_000, heal)
    if not world.time.run(lambda: left[0] == 0, end_ms=90_000):
        world.failures.append(f"{left[0]} calls have not ended")
    results = [asked.result for caller in callers for asked in caller.ended]
    if len(set(results)) != len(results):
        world.failures.append("one answer was given to two calls")
    world.faulty = False
    world.time.run(lambda: False, end_ms=world.time.now_ms + 70_000)
    for router in world.routers:
        world.failures += leftovers(router.core)
    return world.failures


def leftovers(core: Forwarder) -> list[str]:
    """What a router still holds of calls that have ended."""
    found = {
        "open calls": core.open_calls,
        "open bytes": core.open_bytes,
        "parked": core.parked_count,
        "attempts": sum(len(link.attempts) for link in core.links.values()),
        "paused": core.paused_count,
        "deadlines": len(core._deadlines),
    }
    return [f"{count} {what} are left" for what, count in found.items() if count]


def run(seed: int, **settings: int) -> list[str]:
    before = stub_module._random
    stub_module._random = random.Random(seed)  # type: ignore[assignment]
    try:
        return work(World(seed, **settings))
    finally:
        stub_module._random = before


def test_every_call_ends_well_once_and_in_order(request: pytest.FixtureRequest) -> None:
    only = request.config.getoption("--seed")
    seeds = [only] if only is not None else range(request.config.getoption("--seeds") // 2)
    for seed in seeds:
        failures = run(seed)
        assert not failures, f"--seed={seed}: {failures[:5]}"


def test_a_router_that_is_too_small_refuses_and_still_serves_everybody() -> None:
    for seed in range(20):
        failures = run(seed, calls_max=8)
        assert not failures, f"seed {seed}: {failures[:5]}"


def forget_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was under way on a broken link is not sent again."""

    def on_link_lost(self: Forwarder, link: Link) -> None:
        link.is_open = False
        self._unroute(link)
        link.attempts, link.outgoing = {}, []

    monkeypatch.setattr(Forwarder, "on_link_lost", on_link_lost)


def stay_with_the_old_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that a deposed owner has are not sent to the new one."""
    send = Forwarder._send

    def send_once(self: Forwarder, call: Forwarded, link: Link, oldest: int) -> None:
        if call.link is None:
            send(self, call, link, oldest)

    monkeypatch.setattr(Forwarder, "_send", send_once)


def answer_not_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is not the owner any more is the caller's business."""
    decide = retry.verdict

    def verdict(status: int, tries: int, *, in_order: bool, is_final: bool) -> retry.Verdict:
        if status == Status.NOT_OWNER:
            return retry.Verdict.FINAL
        return decide(status, tries, in_order=in_order, is_final=is_final)

    monkeypatch.setattr("roost_router.core.forward.verdict", verdict)


def leak_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempts of a call that has ended stay on their links."""
    close = Forwarder._close

    def close_here(self: Forwarder, call: Forwarded, *, cancel: bool) -> None:
        call.earlier = None
        close(self, call, cancel=cancel)

    monkeypatch.setattr(Forwarder, "_close", close_here)


@pytest.mark.parametrize(
    "break_it",
    [
        forget_lost,
        stay_with_the_old_owner,
        answer_not_owner,
        leak_attempts,
    ],
)
def test_a_broken_router_is_caught(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    assert any(is_caught(seed) for seed in range(100))


def is_caught(seed: int) -> bool:
    try:
        return bool(run(seed))
    except (AssertionError, KeyError):  # the core noticed by itself
        return True
