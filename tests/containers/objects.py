"""What the nodes of the container tests serve: the room of the example, and what the callers call."""

from chat import Room as Room
from crash.app import Counter as Counter
from crash.app import Line as Line
from crash.app import Log as Log
from crash.app import Register as Register
