"""The blocking client: `with roost.sync.connect("localhost:7400") as cluster`.

It runs the asynchronous one in a thread of its own, so both behave alike.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload
from uuid import UUID

from roost import client
from roost.adapters.channel import Tls
from roost.adapters.transport import NodeStatus, ObjectDetail, ObjectInfo
from roost.client import OutcomeOf
from roost.errors import RoostError, UnavailableError
from roost.options import CONNECT_TIMEOUT_S, DEADLINE_S
from roost.stub import Stub, make_stub

T = TypeVar("T")
P = ParamSpec("P")


class Cluster:
    """A connection to a cluster, for code without an event loop. Safe to share between threads."""

    def __init__(self, make: Callable[[], client._Connecting]) -> None:
        self._make = make
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread
        self._connecting: client._Connecting | None = None
        self._cluster: client.Cluster | None = None

    def __enter__(self) -> Cluster:
        _refuse_inside_a_loop()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="roost", daemon=True)
        self._thread.start()
        try:
            self._cluster = self._run(self._open())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connecting is not None:
            try:
                self._run(self._connecting.__aexit__(None, None, None))
            finally:
                self._cluster = None
                self._stop()

    async def _open(self) -> client.Cluster:
        self._connecting = self._make()
        return await self._connecting.__aenter__()

    async def _end_tasks(self) -> None:
        """As `asyncio.run` does: what is left (gRPC's own, mostly) ends here, not when it is collected."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    def _stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end_tasks(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        _refuse_inside_a_loop(coroutine)
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except (KeyboardInterrupt, concurrent.futures.CancelledError):
            future.cancel()
            raise

    def _open_cluster(self) -> client.Cluster:
        if self._cluster is None:
            raise UnavailableError("the client is closed")
        return self._cluster

    @overload
    def object(self, cls: type[T], key: str) -> T: ...

    @overload
    def object(self, cls: str, key: str) -> Any: ...

    def object(self, cls: type[T] | str, key: str) -> Any:
        """A stub; give its methods to `call` for typed results, or call them as they are."""
        return make_stub(_BlockingCaller(self), cls, key)

    def call(self, method: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a stub's method and wait: `cluster.call(counter.increment, by=2)`."""
        result: Any = method(*args, **kwargs)
        return result  # type: ignore[no-any-return]  # a blocking stub gives the result itself

    def iterate(
        self, method: Callable[P, AsyncIterator[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Iterator[T]:
        """Read a streaming method: `for row in cluster.iterate(stub.tail)`."""
        remote: Any = method
        items: Iterator[T] = remote.iterate(*args, **kwargs)
        return items

    def outcome(self, stub: Any, request_id: UUID) -> OutcomeOf:
        """What became of a request: see `roost.outcome`."""
        return self._run(self._open_cluster().outcome(stub, request_id))

    def objects(self, cls: type[Any] | str, *, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects of a class of which something is stored, by key."""
        return self._iterate(self._open_cluster().objects(cls, prefix=prefix))

    def show(self, cls: type[Any] | str, key: str) -> ObjectDetail | None:
        """One object as it is stored; None: nothing of it is."""
        return self._run(self._open_cluster().show(cls, key))

    def delete(self, cls: type[Any] | str, key: str) -> bool:
        """Delete all that an object stores; was there anything?"""
        return self._run(self._open_cluster().delete(cls, key))

    def status(self) -> NodeStatus:
        """What the server says of itself."""
        return self._run(self._open_cluster().status())

    def _iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        end = object()

        async def step() -> Any:
            return await anext(items, end)

        try:
            while (item := self._run(step())) is not end:
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                self._run(close())


class _BlockingCaller:
    """A stub's caller that waits."""

    blocking = True

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def invoke(self, stub: Stub, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call and wait for the result."""
        inner = self._cluster._open_cluster()
        return self._cluster._run(inner.invoke(stub, method, args, kwargs))

    def stream(self, stub: Stub, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An iterator over the items."""
        inner = self._cluster._open_cluster()
        return self._cluster._iterate(inner.stream(stub, method, args, kwargs))


def connect(
    *addresses: str,
    token: str | None = None,
    tls: Tls | None = None,
    direct: bool = False,
    timeout: float = DEADLINE_S,
    connect_timeout: float = CONNECT_TIMEOUT_S,
) -> Cluster:
    """Connect from code without an event loop; arguments and errors are those of `roost.connect`."""
    return Cluster(
        lambda: client.connect(
            *addresses,
            token=token,
            tls=tls,
            direct=direct,
            timeout=timeout,
            connect_timeout=connect_timeout,
        )
    )


def _refuse_inside_a_loop(coroutine: Coroutine[Any, Any, Any] | None = None) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if coroutine is not None:
        coroutine.close()
    raise RoostError(
        "the blocking client would stop the event loop that runs here: use `roost.connect`"
    )
