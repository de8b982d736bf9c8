"""What happened, to be read after a run has failed: one line each, by simulated time and process."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator

from simulator.machines import current

LINES_MAX = 20_000
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

    def lines(self, *words: str, count: int = 120) -> list[str]:
        """The last ones that hold one of the words, or what the nemesis did; no words: all."""
        found = [
            f"{at - 1000:9.4f} {who:8} {text}"
            for at, who, said in self._lines
            for text in [said if isinstance(said, str) else _text(said)]
            if not words or who == "*" or any(word in text for word in words)
        ]
        return found[-count:]

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


def _text(record: logging.LogRecord) -> str:
    fields = " ".join(f"{k}={v}" for k, v in record.__dict__.items() if k not in _PLAIN)
    return f"{record.getMessage()} {fields}".rstrip()
