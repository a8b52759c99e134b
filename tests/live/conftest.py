"""What live tests share: a real Prometheus that scrapes four engines, and where the times that were measured go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import structlog

from tests.builders_live_fleet import ScrapedFleet
from tests.live_times import Measured


@pytest.fixture(scope="session")
def session_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScrapedFleet]:
    """One Prometheus for the whole session: it takes five seconds until its first sample."""
    with ScrapedFleet(tmp_path_factory.mktemp("prometheus")) as fleet:
        yield fleet


@pytest.fixture
def fleet(session_fleet: ScrapedFleet) -> Iterator[ScrapedFleet]:
    """The fleet in good health, before and after the test."""
    session_fleet.heal()
    yield session_fleet
    session_fleet.heal()


@pytest.fixture
def measured(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Measured:
    """Figures of this test: printed, told at the end of the session, and kept in a file (``tests.live_times``)."""
    name: str = request.node.name
    return Measured(name.removeprefix("test_").replace("_", " "), record_property)


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Undo what a command that was called in this process does to logging."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
