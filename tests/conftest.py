"""What all tests share: where the recorded traces are, if they are there, and how properties are searched."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import live_times
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


def pytest_configure(config: pytest.Config) -> None:
    """Leave the order of files to ``pytest_collection_modifyitems``."""
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, then those with many, so that workers that share files end together."""
    tests = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what the live tests measured."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    properties = [told for report in reports if report.when == "call" for told in report.user_properties]
    if figures := live_times.collected(properties):
        terminalreporter.write_sep("=", "measured by the live tests")
        terminalreporter.write_line(live_times.table(figures))
        live_times.write(figures)
