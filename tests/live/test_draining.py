"""Do streams on replicas that the daemon gives up go on to their end, counted at the client?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builders_stack import RunningStack, prior, running_stack, steady
from tests.live_times import Measured

POOL, REPLICAS = "engines", 5
SHAPE = (100, 25)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    pool = f"{POOL}=emulated-small,replicas={REPLICAS},max={REPLICAS}"
    with running_stack(tmp_path_factory.mktemp("draining"), pool, settings=prior(*SHAPE)) as running:
        yield running


def test_streams_on_replicas_that_are_given_up_go_on_to_their_end(stack: RunningStack, measured: Measured) -> None:
    load = stack.play(steady(15.0, 36.0, *SHAPE))
    load.wait()
    drained = {e.replica: e.at for e in stack.events(load.began_at, "draining")}
    gone = {e.replica: e.at for e in stack.events(load.began_at, "gone")}

    def inside(replica: str, at: float) -> int:
        spans = [(load.began_at + r.arrival_s, load.began_at + r.arrival_s + r.e2e_s) for r in load.rows
                 if r.replica == replica]  # fmt: skip
        return sum(begin < at < end for begin, end in spans)

    measured.note("streams", len(load.rows), "")
    measured.note("replicas given up", len(drained), "")
    measured.note("streams inside when they were", sum(inside(name, at) for name, at in drained.items()), "")
    measured.note("longest drain", max((gone[name] - at for name, at in drained.items() if name in gone), default=0.0))
    measured.note("errors that clients saw", len(load.errors()), "")
    what = f"{measured}\n{stack.story(60.0)}"
    assert len(load.rows) >= 500, what
    assert drained, what
    assert sum(inside(name, at) for name, at in drained.items()) > 0, what
    assert not load.errors(), what
    assert not stack.events(load.began_at, "drain deadline"), what
