"""`make demo`: on a cluster or on one node, and says so by its exit status when something is missing."""

from __future__ import annotations

import pytest

import demo
import demo_alone
import roost
import story


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "QUIET_S", 0.3)
    monkeypatch.setattr(demo_alone, "BEFORE_S", 0.3)
    monkeypatch.setattr(demo_alone, "AFTER_S", 0.1)


def test_a_cluster_plays_the_story_to_a_good_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROOST_SUPERVISE", "1")
    assert demo.main() == 0
    shown = capsys.readouterr().out
    for line in ("a fourth node joined", "was drained", "was killed", "0 errors reached a client"):
        assert line in shown


def test_without_etcd_one_node_plays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_etcd", lambda: None)
    assert demo.main() == 0


def test_an_increment_that_is_missing_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_etcd", lambda: None)
    check = story.Story.check

    async def boast(self: story.Story, cluster: roost.Cluster, console: object) -> bool:
        self.counted["page-0"].append(-1)  # acknowledged, says the client; it never was
        return await check(self, cluster, console)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(story.Story, "check", boast)
    assert demo.main() == 1


def test_a_cluster_that_does_not_come_up_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "find_etcd", lambda: "/no/such/etcd")
    assert demo.main() == 1
    assert "no/such/etcd" in capsys.readouterr().out
