"""What happened, to be read after a run has failed: one line each, by simulated time and process."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable, Iterator

from simulator.machines import current

LINES_MAX = 20_000
LATEST = 120
START_S = 1000  # of the loop's clock
LOGGERS = ("roost", "roost_node", "roost_router")
_PLAIN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Trace(logging.Handler):
    """The latest lines. Log lines of the programs are among them."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        super().__init__()
        self._now_s = now_s
        self._lines: deque[tuple[float, str, str | logging.LogRecord]] = deque(maxlen=LINES_MAX)

    def note(self, text: str) -> None:
        process = current()
        self._lines.append((self._now_s(), process.name if process else "*", text))

    def emit(self, record: logging.LogRecord) -> None:
        process = current()
        self._lines.append((self._now_s(), process.name if process else "*", record))

    def lines(self, *words: str) -> list[str]:
        """The latest; or of all that are kept, those that tell of one of the words, and the faults.

        A word is a process ("a", "r0", "client1"), or any text of a line: "Counter/b". A number behind a
        name is found whichever way it is written: "shard 2" and "shard=2" are one.
        """
        found = [
            f"{at - START_S:9.4f} {who:8} {text}"
            for at, who, said in self._lines
            for text in [said if isinstance(said, str) else _text(said)]
            if not words or who == "*" or any(_tells_of(word, who, text) for word in words)
        ]
        return found if words else found[-LATEST:]

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hear what the programs log."""
        loggers = [logging.getLogger(name) for name in LOGGERS]
        before = [(log.level, log.propagate) for log in loggers]
        for log in loggers:
            log.addHandler(self)
            log.setLevel(logging.INFO)
            log.propagate = False
        try:
            yield
        finally:
            for log, (level, propagate) in zip(loggers, before, strict=True):
                log.removeHandler(self)
                log.setLevel(level)
                log.propagate = propagate


def _tells_of(word: str, who: str, text: str) -> bool:
    if len(word) == 1 or who == word:
        return who == word
    word = word.replace("=", " ")
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text.replace("=", " ")) is not None


def _text(record: logging.LogRecord) -> str:
    fields = " ".join(f"{k}={v}" for k, v in record.__dict__.items() if k not in _PLAIN)
    return f"{record.getMessage()} {fields}".rstrip()
