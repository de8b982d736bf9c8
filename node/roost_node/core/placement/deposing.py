"""Who must go when nodes reach the coordination store, but not each other (F2).

An owner that cannot reach an in-sync member, and may not remove it (M3), can neither commit nor answer
for long, while its session lives on: nobody would take over. Nodes report whom they cannot reach, and
which of those hold them up. The controller then revokes the session of a stuck owner, if the member
that it waits for says that it cannot reach the owner either (so it lives), and is no worse connected
than the owner: another member is promoted, and a node that is cut off from all others loses what it
owns, not those that it takes for dead.
"""

from __future__ import annotations

from collections.abc import Mapping

from roost_node.core.record import SessionInfo, StoreId


def cut_off_count(sessions: Mapping[StoreId, SessionInfo], store: StoreId) -> int:
    """From how many live nodes is it cut off, by its own word or by theirs?"""
    own = sessions[store].unreachable
    return sum(
        other in own or store in info.unreachable
        for other, info in sessions.items()
        if other != store
    )


def whom_to_depose(sessions: Mapping[StoreId, SessionInfo]) -> StoreId | None:
    """The live node whose session is to be revoked next; None: nobody's."""
    counts = {store: cut_off_count(sessions, store) for store in sessions}
    stuck = [
        (counts[store], store)
        for store, info in sessions.items()
        if any(
            store in sessions[member].unreachable and counts[member] <= counts[store]
            for member in info.stuck_on
            if member in sessions
        )
    ]
    return max(stuck)[1] if stuck else None
