"""Are log lines whole JSON, without secrets and without repeats, whoever writes them?"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from controller.logs import KEPT_KINDS, MAX_TEXT, Repeats, start_logging

REPEAT_S = 300.0


class Stopwatch:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def out(stopwatch: Stopwatch) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    start_logging(stopwatch, REPEAT_S, to=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_json_with_time_level_and_event_first(out: io.StringIO) -> None:
    structlog.get_logger("foresail.loop").info("acted", scale=["m/a 3 -> 5"], generation=7)
    (line,) = lines(out)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert (line["level"], line["event"], line["generation"], line["scale"]) == ("info", "acted", 7, ["m/a 3 -> 5"])


def test_lines_of_standard_logging_take_the_same_way(out: io.StringIO) -> None:
    logging.getLogger("foresail.audit").error("tick at %d not recorded: %s", 60, "postgresql://me:s3cret@db/x is down")
    (line,) = lines(out)
    assert line["level"] == "error"
    assert line["event"] == "tick at 60 not recorded: postgresql://me:***@db/x is down"


def test_secrets_are_hidden_wherever_they_stand(out: io.StringIO) -> None:
    url = "https://me:s3cret@metrics/api"
    log = structlog.get_logger("foresail")
    log.error(f"cannot reach {url}", why=url, nested={"urls": [url]}, odd=ValueError(url))
    log.error("a bug", exc_info=RuntimeError(f"password=s3cret for {url}"))
    assert len(lines(out)) == 2
    assert "RuntimeError" in lines(out)[1]["exception"]
    assert "s3cret" not in out.getvalue()


def test_what_is_said_again_is_counted_until_its_time_has_passed(out: io.StringIO, stopwatch: Stopwatch) -> None:
    log = structlog.get_logger("foresail.loop")
    for i in range(5):
        log.warning("held", at=i, repeat_key="the same plan")
    log.warning("held", at=9, repeat_key="another plan")
    assert [line["at"] for line in lines(out)] == [0, 9]
    stopwatch.now_s = REPEAT_S
    log.warning("held", at=10, repeat_key="the same plan")
    assert (lines(out)[-1]["at"], lines(out)[-1]["repeated"]) == (10, 4)
    assert all("repeat_key" not in line for line in lines(out))


def test_without_a_key_lines_that_differ_in_figures_alone_are_repeats(out: io.StringIO) -> None:
    for at in (60, 75, 90):
        logging.getLogger("foresail.audit").error("tick at %d not recorded", at)
    logging.getLogger("foresail.audit").warning("tick at 90 not recorded")
    assert [line["level"] for line in lines(out)] == ["error", "warning"]


def test_levels_below_the_chosen_one_are_left_out(out: io.StringIO) -> None:
    structlog.get_logger("foresail").debug("detail")
    logging.getLogger("apscheduler.executors.tick").info("Running job")
    assert lines(out) == []


def test_a_text_without_end_is_cut(out: io.StringIO) -> None:
    structlog.get_logger("foresail").info("long", answer="x" * 100_000)
    assert len(lines(out)[0]["answer"]) == MAX_TEXT


@pytest.mark.usefixtures("out")
def test_a_terminal_gets_lines_for_people(stopwatch: Stopwatch) -> None:
    terminal = Terminal()
    start_logging(stopwatch, REPEAT_S, to=terminal)
    structlog.get_logger("foresail").info("acted", generation=7)
    assert "acted" in terminal.getvalue()
    with pytest.raises(ValueError, match=r".+"):
        json.loads(terminal.getvalue())


def test_the_memory_of_what_was_said_is_bounded(stopwatch: Stopwatch) -> None:
    repeats = Repeats(stopwatch, REPEAT_S)
    for i in range(2 * KEPT_KINDS):
        repeats(None, "info", {"event": "x", "repeat_key": str(i)})
    assert len(repeats._known) == KEPT_KINDS
