"""What a supervisor does about its node's process: start it, stop it, declare it dead, start it again.

`roost node` is two processes: a small parent, the supervisor, which decides by this core, and the node
itself, its child. The parent is there for what no process can do for itself: to see that it is dead. Only
a process that was waited for is (P6); one that is frozen, or that nobody hears, is not.

```
            tick, due              ended badly
 waiting ─────────────▶ running ─────────────────▶ waiting  0.2 s, doubling to 30 s; anew after a good run
    │                      │ │
    │ told to stop         │ └─ ended by itself, as it was told, or refused to start
    └──────────────────────┴──────────────────────▶ left
```

A node that ends with status 1 or 2 and never served was asked for something that it will not do (a wrong
setting, another cluster's directory): to start it again would only repeat it. One of which an earlier process
served has met something that may pass (an etcd that was restored, a disk that is full).

Not here: processes, signals, etcd (`supervisor.py`).
"""

from __future__ import annotations

import msgspec

from roost_node.core.record import NO_SESSION, DeathRecord, SessionId, StoreId

REFUSED = (1, 2)
PAUSE_MS_MIN, PAUSE_MS_MAX = 200, 30_000
WELL_MS = 10_000
"""A process that has run for so long was not broken from the start: the next pause is the shortest."""

TERMINATED = -15  # by SIGTERM, before it could do better

SIGNALLED = 128
"""A shell's exit status of a command that a signal ended, less the signal."""


class NodeState(msgspec.Struct, frozen=True):
    """What a node tells its supervisor, whole each time."""

    store: StoreId = StoreId("")
    session: SessionId = NO_SESSION  # the last one it had
    is_serving: bool = False


class Start(msgspec.Struct, frozen=True):
    """Start the node's process."""


class Terminate(msgspec.Struct, frozen=True):
    """Ask it to hand its shards over, finish its calls and end."""


class Kill(msgspec.Struct, frozen=True):
    """End it at once."""


class WriteDeath(msgspec.Struct, frozen=True):
    """Tell the cluster that this session's process is dead."""

    death: DeathRecord


class Leave(msgspec.Struct, frozen=True):
    """End the supervisor with this exit status, once deaths are written."""

    status: int


Effect = Start | Terminate | Kill | WriteDeath | Leave


class Supervision:
    """One node, from the first start to the last end. `wake_ms`: when `on_tick` is due; None: never."""

    __slots__ = (
        "_has_served",
        "_is_running",
        "_pause_ms",
        "_started_ms",
        "_state",
        "_stops",
        "wake_ms",
    )

    def __init__(self, now_ms: int) -> None:
        self.wake_ms: int | None = now_ms
        self._has_served = False  # this process or an earlier one
        self._is_running = False
        self._pause_ms = PAUSE_MS_MIN
        self._started_ms = now_ms
        self._state = NodeState()
        self._stops = 0  # how often it was told to stop

    def on_tick(self, now_ms: int) -> list[Effect]:
        """Some time has passed."""
        if self.wake_ms is None or now_ms < self.wake_ms:
            return []
        self.wake_ms = None
        self._is_running = True
        self._started_ms = now_ms
        self._state = NodeState()
        return [Start()]

    def on_told(self, state: NodeState) -> None:
        """The process that runs says how it is."""
        self._state = state
        self._has_served = self._has_served or state.is_serving

    def on_stop(self) -> list[Effect]:
        """SIGTERM or Ctrl-C: the first asks, the second does not."""
        self._stops += 1
        if self._is_running:
            return [Terminate() if self._stops == 1 else Kill()]
        if self.wake_ms is None:
            return []  # on the way out already
        self.wake_ms = None
        return [Leave(0)]

    def on_ended(self, status: int, now_ms: int) -> list[Effect]:
        """The process was waited for; `status` is its exit status, or minus the signal that ended it."""
        assert self._is_running, "P6: nothing is dead that was not running"
        self._is_running = False
        state = self._state
        effects: list[Effect] = []
        if status and state.session != NO_SESSION:  # else it ended its session by itself
            effects.append(WriteDeath(DeathRecord(state.store, state.session)))
        is_refusal = status in REFUSED and not self._has_served
        if status == 0 or is_refusal or self._stops:
            is_obeyed = status == TERMINATED and self._stops == 1
            return [
                *effects,
                Leave(0 if is_obeyed else status if status >= 0 else SIGNALLED - status),
            ]
        if now_ms - self._started_ms >= WELL_MS:
            self._pause_ms = PAUSE_MS_MIN
        self.wake_ms = now_ms + self._pause_ms
        self._pause_ms = min(2 * self._pause_ms, PAUSE_MS_MAX)
        return effects
