"""This process as a cluster of one: `async with roost.local(Counter, path="data") as cluster`.

The node is found by entry point and never imported from here, so a client alone needs none of it.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import TracebackType
from typing import Any

from roost.adapters.transport import Transport
from roost.client import Cluster
from roost.errors import InvalidArgumentError, RoostError
from roost.options import DEADLINE_S

NO_SERVER = "this installation can call objects and not serve them: pip install 'roost[server]'"


class Local:
    """`async with` it: starts a node in this process, drains it at the end."""

    def __init__(
        self, classes: tuple[type[Any], ...], path: str | Path | None, settings: dict[str, Any]
    ) -> None:
        self._classes = classes
        self._path = path
        self._timeout_s = settings.pop("timeout", DEADLINE_S)
        self._settings = settings
        self._cluster: Cluster | None = None

    async def __aenter__(self) -> Cluster:
        start = _embedded()
        transport: Transport = await start(self._classes, self._path, **self._settings)
        self._cluster = Cluster(transport, timeout_s=self._timeout_s)
        return await self._cluster.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._cluster is not None
        await self._cluster.__aexit__(kind, error, trace)


def local(*classes: type[Any], path: str | Path | None = None, **settings: Any) -> Local:
    """A cluster in this process: the same surface as `connect`, no network.

    `path`: the data directory; None keeps nothing afterwards. Raises StoreError when the directory is
    in use or foreign. Further settings: `timeout` (seconds), `check_effects`, and the limits of the
    node by name.
    """
    if not classes:
        raise InvalidArgumentError("give the classes to serve: roost.local(Counter)")
    return Local(classes, path, settings)


def load_server(entry: EntryPoint) -> Any:
    """What a server's entry point names. Raises RoostError where only the client was installed."""
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        raise RoostError(f"{NO_SERVER} ({error.name} is missing)") from error


def _embedded() -> Any:
    for entry in entry_points(group="roost.embedded", name="node"):
        return load_server(entry)
    raise RoostError(NO_SERVER)
