"""`make sim`: that no seed is left out."""

from __future__ import annotations

from simulator.sweep import KINDS, blocks


def test_a_sweep_that_goes_on_plays_what_is_left_of_each_simulation() -> None:
    whole, rest = (
        {
            (b.kind, s)
            for b in blocks(first, count, list(KINDS))
            for s in range(b.first, b.first + b.seeds)
        }
        for first, count in ((0, 95), (40, 55))
    )
    assert whole == {(kind, seed) for kind in KINDS for seed in range(95)}
    assert rest == {(kind, seed) for kind in KINDS for seed in range(40, 95)}
