"""Print what Roost's servers need from a package index, a requirement a line: `python needed.py [--build]`.

The image installs this before Roost itself, so that changed code fetches nothing; `offline.sh` fetches it, with
what builds Roost's wheel, into `wheels/`.
"""

import sys
import tomllib

with open("pyproject.toml", "rb") as file:  # noqa: PTH123  # nothing else is imported here
    settings = tomllib.load(file)
needed = (
    settings["project"]["dependencies"] + settings["project"]["optional-dependencies"]["server"]
)
if "--build" in sys.argv:
    needed += settings["build-system"]["requires"]
print(*needed, sep="\n")
