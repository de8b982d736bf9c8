"""What a stub keeps, and what it leaves behind."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from roost.stub import Stub, make_stub


class Nobody:
    """A caller whose calls are never made."""

    def invoke(
        self, stub: Stub, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        raise NotImplementedError

    def stream(
        self, stub: Stub, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]:
        raise NotImplementedError


def test_a_stub_used_for_one_call_is_freed_without_the_collector() -> None:
    stub = make_stub(Nobody(), "Counter", "a")
    order = stub._order
    gc.disable()
    try:
        stub.increment  # noqa: B018
        del stub
        left = [found for found in gc.get_referrers(order) if isinstance(found, Stub)]
    finally:
        gc.enable()
    assert not left


def test_a_stub_used_again_keeps_its_method() -> None:
    stub = make_stub(Nobody(), "Counter", "a")
    first, second = stub.increment, stub.increment
    assert first is not second
    assert stub.increment is second
