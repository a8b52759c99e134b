"""What all tests share: where the recorded traces are, if they are there."""

from __future__ import annotations

from pathlib import Path

import pytest

RECORDED_TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"


@pytest.fixture(scope="session")
def recorded_traces() -> Path:
    """Folder of recorded traces; the test is skipped where a clone does not have it."""
    if not RECORDED_TRACES.is_dir():
        pytest.skip(f"no recorded traces beside the checkout ({RECORDED_TRACES.name} folder absent)")
    return RECORDED_TRACES
