"""Memory comes back after many objects have left, and a second round needs no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

OBJECTS = 100_000
SHARED_MEMORY = Path("/dev/shm")  # on a slow disk RocksDB keeps more in memory, and it takes long


@pytest.mark.timeout(1500)  # some 40 s, and a busy machine is no failure
def test_memory_comes_back_when_objects_leave(tmp_path: Path) -> None:
    in_memory = os.access(SHARED_MEMORY, os.W_OK)
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if in_memory else tmp_path) as directory:
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("touch_many.py"), directory, f"{OBJECTS}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=1400,
        )
    found = json.loads(done.stdout)
    before, peaks, left = found["before"], found["peaks"], found["left"]
    grown = peaks[0] - before
    stays = (left[0] - before) / grown
    later = len(left) - 1
    more = (left[-1] - left[0]) / later / grown  # a round
    peak_more = (peaks[-1] - peaks[0]) / later / grown
    print(f"{found}: stays {stays:.1%}, a round adds {more:.1%}, to the peak {peak_more:.1%}")
    assert stays < 0.25
    assert more < 0.05
    assert peak_more < 0.05
