"""How a router shares its room, with plain values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_router.core.admission import Admission, Share


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 300)), max_size=200),
)
def test_admission_counts_exactly_and_keeps_its_bounds(
    steps: list[tuple[int, bool, int]],
) -> None:
    admission = Admission(20, 2000)
    shares = [Share() for _ in range(4)]
    held: list[list[int]] = [[] for _ in range(4)]
    for who, opens, size in steps:
        if opens and admission.refusal(shares[who], size) is None:
            admission.open(shares[who], size)
            held[who].append(size)
        elif not opens and held[who]:
            admission.close(shares[who], held[who].pop())
        assert admission.open_calls == sum(map(len, held)) <= 20
        assert admission.open_bytes == sum(map(sum, held))
        assert admission.open_bytes <= 2000 or admission.open_calls == 1
        assert admission._holders == sum(bool(h) for h in held)


def test_one_client_cannot_take_all_the_room() -> None:
    admission = Admission(100, 2**20)
    greedy, other = Share(), Share()
    while admission.refusal(greedy, 10) is None:
        admission.open(greedy, 10)
    for _ in range(20):
        assert admission.refusal(other, 10) is None
        admission.open(other, 10)
    assert admission.refusal(greedy, 10) is not None


def test_a_refusal_says_when_there_will_be_room() -> None:
    admission = Admission(100, 2**20)
    share = Share()
    for now_ms in range(1000, 11_000, 100):  # 100 calls a second
        for _ in range(10):
            admission.open(share, 1)
            admission.close(share, 1)
        admission.on_tick(now_ms)
    for _ in range(40):
        admission.open(share, 1)
    assert admission.retry_after_s() == pytest.approx(0.1, rel=0.2)
