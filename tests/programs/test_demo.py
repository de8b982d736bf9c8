"""`make demo` says so, by its exit status, when something is missing."""

from __future__ import annotations

import pytest

import demo
import roost


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "BEFORE_S", 0.3)
    monkeypatch.setattr(demo, "AFTER_S", 0.1)


def test_the_demo_ends_well() -> None:
    assert demo.main() == 0


def test_an_increment_that_is_missing_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    count = demo.Story.count

    async def boast(self: demo.Story, cluster: roost.Cluster) -> None:
        await count(self, cluster)
        self.counted.append(-len(self.counted))  # acknowledged, says the client; it never was

    monkeypatch.setattr(demo.Story, "count", boast)
    assert demo.main() == 1
