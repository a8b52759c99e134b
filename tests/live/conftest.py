"""What live tests share: where they note the times that they measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.live_times import Measured


@pytest.fixture
def measured(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Measured:
    """Figures of this test: printed, told at the end of the session, and kept in a file (``tests.live_times``)."""
    name: str = request.node.name
    return Measured(name.removeprefix("test_").replace("_", " "), record_property)
