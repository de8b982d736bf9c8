"""A process that forks, as web servers do after they have imported everything."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os
from roost.client import _ids

if os.fork() == 0:
    print(_ids.getrandbits(74), flush=True)
    os._exit(0)
os.wait()
print(_ids.getrandbits(74))
"""


def test_a_forked_process_makes_ids_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    one, other = done.stdout.split()
    assert one != other
