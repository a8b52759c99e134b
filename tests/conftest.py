"""What all tests share: where the recorded traces are, if they are there, and how properties are searched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.builders_postgres import PostgresServer, missing_binaries, postgres_server

RECORDED_TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"

# A busy machine is no failure, so no example has a deadline. Where a submission is judged, the same examples come every
# time; elsewhere new ones. A failure prints what replays it.
settings.register_profile(
    "foresail",
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("foresail")


@pytest.fixture(scope="session")
def recorded_traces() -> Path:
    """Folder of recorded traces; the test is skipped where a clone does not have it."""
    if not RECORDED_TRACES.is_dir():
        pytest.skip(f"no recorded traces beside the checkout ({RECORDED_TRACES.name} folder absent)")
    return RECORDED_TRACES


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server; the test is skipped where it is not installed."""
    why_not = missing_binaries()
    if why_not:
        pytest.skip(why_not)
    with postgres_server() as server:
        yield server
