"""A node as a program: started, told to stop, reloaded when its code changes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop
import watchfiles

from roost.adapters.serving import serve_metrics
from roost.errors import RoostError
from roost_node.cluster import Member, cluster_store
from roost_node.config import NodeConfig
from roost_node.host.loader import Application, LoadError, users_trace
from roost_node.host.memory import return_large_blocks
from roost_node.node import Node
from roost_node.ownership.etcd import EtcdCoordinator
from roost_node.ownership.etcd_settings import etcd_options
from roost_node.server import Server
from roost_node.storage.ballast import keep_ballast
from roost_node.supervisor_line import NodeEnd

if TYPE_CHECKING:
    from roost.object import ClassSpec

log = logging.getLogger(__name__)

T = TypeVar("T")
EXIT_STORE_FAILED = 70
GIL_SWITCH_S = 0.0001
GC_YOUNG_MAX = 20_000
LOOK_MS = 1000


def run(
    config: NodeConfig,
    application: Application,
    *,
    reload: bool,
    supervisor: NodeEnd | None = None,
) -> int:
    """Serve until SIGTERM, Ctrl-C or the end of the supervisor; the exit status."""
    if not __debug__:
        log.critical("python -O drops the assertions that keep data safe: run without it")
        return 1
    try:
        classes = application.load()
    except LoadError as error:
        log.critical("%s", error)
        return 1
    except Exception as error:
        log.critical("%s cannot be loaded:\n%s", application.target, users_trace(error))
        return 1
    # The thread that flushes asks for the GIL several times a flush, and gets it after this long at the
    # latest. With the default of 5 ms a flush of 0.3 ms was measured to come back after 15 ms from a
    # busy loop; with 0.1 ms after 0.8 ms, and the loop got as much done.
    sys.setswitchinterval(GIL_SWITCH_S)
    # What is loaded now stays: the garbage collector need not look at it again. And a call makes some
    # dozens of objects that die with it: by default it would look at all young ones every few calls.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG_MAX, 20, 20)
    return_large_blocks()
    try:
        uvloop.run(_serve(config, application, classes, supervisor, reload=reload))
    except RoostError as error:
        log.critical("%s", error)
        return 1
    return 0


async def _serve(
    config: NodeConfig,
    application: Application,
    classes: dict[str, ClassSpec],
    supervisor: NodeEnd | None,
    *,
    reload: bool,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if supervisor is not None:
        supervisor.listen(loop, lambda: _on_alone(stop))
    async with contextlib.AsyncExitStack() as stack:
        coordinator = store = agreed = None
        if config.etcd:
            coordinator = EtcdCoordinator(etcd_options(config, os.environ))
            stack.push_async_callback(coordinator.close)
            found = await _unless(stop, cluster_store(coordinator, config))
            if found is None:
                return
            store, agreed = found
        node = await stack.enter_async_context(
            Node(
                config.data,
                classes,
                _die,
                limits=config.limits,
                check_effects=config.check_effects,
                store=store,
            )
        )
        keep_ballast(config.data, config.ballast_bytes)
        member: Member | None = None
        if coordinator is not None and agreed is not None:
            member = await stack.enter_async_context(
                Member(node, coordinator, agreed, config.zone, config.weight, supervisor)
            )
        server = Server(
            node,
            config.host,
            config.port,
            insecure=config.insecure,
            advertise=config.advertise,
            view=coordinator,
            secret=agreed.secret if agreed is not None else b"",
            sizes=member.sizes if member is not None else dict,
            moves=member.moves if member is not None else None,
        )
        if config.metrics_port >= 0:
            port, end = serve_metrics(config.host, config.metrics_port, node.telemetry)
            stack.callback(end)
            log.info("metrics", extra={"address": f"{config.host}:{port}"})
        await stack.enter_async_context(
            reachable(node, member, server, leave_s=2 * config.limits.grace_s)
        )
        log.info(
            "serving",
            extra={
                "address": f"{config.host}:{server.port}",
                "data": str(config.data),
                "classes": ",".join(sorted(classes)),
            },
        )
        if supervisor is not None:
            supervisor.on_serving()
        watching = loop.create_task(_watch(node, application, stop)) if reload else None
        await stop.wait()
        log.info("stopping: running calls may finish", extra={"grace_s": config.limits.grace_s})
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    log.info("stopped")


@contextlib.asynccontextmanager
async def reachable(
    node: Node, member: Member | None, server: Server, *, leave_s: float
) -> AsyncIterator[None]:
    """Others reach this node, and it may own shards; at the end it hands them over, and drains.

    The simulation of a whole cluster runs this as well.
    """
    if member is not None:
        server.serve_cluster(member.peer_server, member.relay)
    await server.start(alone=member is None)
    try:
        if member is not None:
            await member.join(server.advertised(), server.publish, server.tell, server.set_serving)
        yield
        if member is not None:
            await member.leave(leave_s)
        await server.say_goodbye()
        await node.drain()
    finally:
        await server.stop()


def _on_alone(stop: asyncio.Event) -> None:
    if not stop.is_set():
        log.error("the supervisor is gone: this node stops, as if it was told to")
    stop.set()


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result, or None: told to stop before there was one."""
    working = asyncio.ensure_future(work)
    told = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, told), return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
        working.cancel()
        await asyncio.wait((working, told))
    return None if working.cancelled() else working.result()


async def _watch(node: Node, application: Application, stop: asyncio.Event) -> None:
    """Run the changed code, or print what is wrong with it and go on with the old.

    What changed before anybody watched is noticed by looking at the files once in a while.
    """
    async for changes in watchfiles.awatch(
        application.watched,
        watch_filter=watchfiles.PythonFilter(),
        stop_event=stop,
        debounce=100,
        rust_timeout=LOOK_MS,
        yield_on_timeout=True,
    ):
        if not changes and not application.is_stale():
            continue
        try:
            classes = application.load()
        except LoadError as error:
            log.error("not reloaded: %s", error)  # noqa: TRY400  # no trace: it is the user's mistake
            continue
        except Exception as error:  # whatever the user's code raises
            log.error("not reloaded, the old code goes on:\n%s", users_trace(error))  # noqa: TRY400
            continue
        await node.reload(classes)
        log.info("reloaded", extra={"classes": ",".join(sorted(classes))})


def _die(error: BaseException) -> None:
    """After a failed write or flush nothing in memory can be trusted: end at once."""
    log.critical("the store failed, this process ends: %s", error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(EXIT_STORE_FAILED)
