"""What does an operator read: structured lines on stderr, JSON for machines, without secrets, without repeats.

Lines of our own and of the libraries' standard logging take the same way. What is said again within ``repeat_s`` is
counted instead of written, and the next line of its kind says how often.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO

import stamina.instrumentation
import structlog

from controller.redaction import redacted

Line = MutableMapping[str, Any]

KEPT_KINDS = 512
MAX_TEXT = 4_000
REPEAT_KEY = "repeat_key"
_DIGITS = re.compile(r"\d+")


class Repeats:
    """A processor that lets one line of a kind through per ``repeat_s`` seconds.

    Lines are of one kind when they have the same ``repeat_key``, or without one the same words: figures do not count.
    """

    def __init__(self, elapsed: Callable[[], float], repeat_s: float) -> None:
        self._elapsed, self._repeat_s = elapsed, repeat_s
        self._known: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def __call__(self, _: object, level: str, line: Line) -> Line:
        """Return ``line``, with how often it was left out before, or drop it."""
        kind = level, str(line.pop(REPEAT_KEY, "")) or _DIGITS.sub("#", str(line.get("event", "")))
        now = self._elapsed()
        told_s, left_out = self._known.get(kind, (-float("inf"), 0))
        if now - told_s < self._repeat_s:
            self._known[kind] = told_s, left_out + 1
            raise structlog.DropEvent
        self._known[kind] = now, 0
        self._known.move_to_end(kind)
        if len(self._known) > KEPT_KINDS:
            self._known.popitem(last=False)
        return {**line, "repeated": left_out} if left_out else line


def without_secrets(_: object, __: str, line: Line) -> Line:
    """Redact every text in ``line``, tracebacks too, and bound its length."""
    return {name: _clean(value) for name, value in line.items()}


def _in_order(_: object, __: str, line: Line) -> Line:
    """Begin with what every line has: when, how bad, what."""
    first = {name: line[name] for name in ("timestamp", "level", "event") if name in line}
    return {**first, **line}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        # Cut twice: a URL that the first cut shortened could look as if it held no secret, and goes with the second.
        return redacted(value[: 2 * MAX_TEXT])[:MAX_TEXT]
    if isinstance(value, dict):
        return {name: _clean(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value if isinstance(value, int | float | bool | None) else _clean(str(value))


def start_logging(elapsed: Callable[[], float], repeat_s: float, level: str = "info", to: TextIO | None = None) -> None:
    """Send every line to ``to`` (stderr): for people on a terminal, as JSON anywhere else."""
    stream = sys.stderr if to is None else to
    to_people = stream.isatty()
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.dev.ConsoleRenderer() if to_people else structlog.processors.JSONRenderer()
    ending: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        without_secrets,
        _in_order,
        renderer,
    ]
    writer = logging.StreamHandler(stream)
    writer.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=ending))
    repeats = Repeats(elapsed, repeat_s)
    writer.addFilter(lambda record: _is_news(record, repeats))
    root = logging.getLogger()
    root.handlers[:] = [writer]
    root.setLevel(level.upper())
    stamina.instrumentation.set_on_retry_hooks(())  # what comes of the last try is told by whoever asked
    for chatty in ("apscheduler", "httpx", "httpcore", "urllib3", "mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            repeats,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _is_news(record: logging.LogRecord, repeats: Repeats) -> bool:
    """Whether a line of a library is no repeat; lines of structlog have been through that already."""
    if isinstance(record.msg, dict):
        return True
    try:
        repeats(None, record.levelname, {"event": record.getMessage()})
    except structlog.DropEvent:
        return False
    return True
