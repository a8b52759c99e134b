"""What live tests share: one real Prometheus that scrapes four engines, whose pages a test can change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builders_live_fleet import ScrapedFleet


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
