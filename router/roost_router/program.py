"""A router as a program: started, told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

import uvloop

from roost.adapters.serving import is_loopback, serve_metrics
from roost.errors import RoostError
from roost_router.config import RouterConfig
from roost_router.router import Router
from roost_router.server import Server

log = logging.getLogger(__name__)


def run(config: RouterConfig) -> int:
    """Serve until SIGTERM or Ctrl-C; the exit status."""
    try:
        uvloop.run(_serve(config))
    except RoostError as error:
        log.critical("%s", error)
        return 1
    return 0


async def _serve(config: RouterConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        router = Router(config.addresses(), limits=config.limits, trusted=is_loopback(config.host))
        server = Server(router, config.host, config.port, insecure=config.insecure)
        await stack.enter_async_context(router)
        router.on_tick = server.hang_up_on_hoarders
        await server.start()
        stack.push_async_callback(server.stop)
        if config.metrics_port >= 0:
            port, end = serve_metrics(config.host, config.metrics_port, router.telemetry)
            stack.callback(end)
            log.info("metrics", extra={"address": f"{config.host}:{port}"})
        log.info(
            "serving", extra={"address": f"{config.host}:{server.port}", "nodes": config.nodes}
        )
        becoming_ready = loop.create_task(server.serve_when_ready())
        await stop.wait()
        becoming_ready.cancel()
        await asyncio.gather(becoming_ready, return_exceptions=True)
        log.info("stopping: open calls may finish", extra={"grace_s": config.limits.grace_s})
        await server.drain()
    log.info("stopped")
