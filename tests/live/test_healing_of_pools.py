"""Is what concerns a whole pool put right on real processes under load: a slow one among many, a bad revision, a loss?

All cases share a stack of two pools of one model, ``east`` and ``west``, either of which can carry the load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest

from policies.traffic import TrafficSettings
from tests.builders_stack import Load, RunningStack, Tick, merged, prior, running_stack, steady
from tests.live_times import Measured

EAST, WEST = "east", "west"
REPLICAS = 5
"""In the east: a straggler is told from three peers at least, and not all end a request at each tick."""

RATE, SHAPE = 14.0, (100, 16)
"""Enough that most replicas end a request at every tick: peers are compared in what ended since the last one."""

GOOD_AFTER_S = 25.0
"""Longer than it takes to tell that a new revision fails, or it would be on record as good itself."""

MOST_AT_ONCE = TrafficSettings().max_step_ratio
FOLLOWS_S = 1.0
"""Until Envoy has surely read a share that the platform shows."""

SETTINGS: Mapping[str, Any] = {
    "policy": {
        "traffic": {"slow_start_s": 6},
        "anomaly": {"cold_s": 3, "min_peers": 3},
        "healing": {"good_after_s": GOOD_AFTER_S},
        "failover": {"return_after_s": 4},
    }
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    pools = (
        f"{EAST}=emulated-small,replicas={REPLICAS},min={REPLICAS},max={REPLICAS + 1}",
        f"{WEST}=emulated-large,replicas=2,min=2,max=4",
    )
    folder = tmp_path_factory.mktemp("healing-of-pools")
    with running_stack(folder, *pools, settings=merged(SETTINGS, prior(*SHAPE)), lead_time_s=4.0) as running:
        yield running


@pytest.fixture(scope="module")
def load(stack: RunningStack) -> Iterator[Load]:
    load = stack.play(steady(RATE, 600.0, *SHAPE))
    stack.until(lambda: len(load.rows) > 20, "answers come")
    yield load
    load.stop()


class Case:
    """What happens from now on, and what clients have of it."""

    def __init__(self, stack: RunningStack, load: Load, measured: Measured) -> None:
        stack.until(
            lambda: stack.pool(EAST).desired == REPLICAS and stack.share(EAST) > 0.4, "it is as in the beginning"
        )
        stack.settle()
        self.stack, self.load, self.measured = stack, load, measured
        self.east = stack.key(EAST)
        self.before = {r.id for r in stack.serving(EAST)}
        self.began_at = stack.now
        self._seen = len(load.rows)

    def note(self, what: str, at: float) -> None:
        self.measured.note(what, at - self.began_at)

    def believed(self, subject: str, cause: str) -> None:
        """Wait for the daemon's words for it, and note when they were on record."""
        tick = self.stack.until_tick(
            lambda t: cause in t.causes(subject), f"{cause} of {subject or 'a pool'}", self.began_at
        )
        self.note("diagnosed after", tick.at)

    def errors(self) -> int:
        """Wait until what is sent now is answered; return how many requests failed since the case began."""
        now = len(self.load.rows)
        self.stack.until(lambda: sum(row.error is None for row in self.load.rows[now:]) > 20, "answers")
        failed = [row for row in self.load.rows[self._seen :] if row.error]
        self.measured.note("errors that clients saw", len(failed), "")
        return len(failed)

    def restarted(self) -> set[str]:
        """Return which replicas healing took out of traffic, or ended."""
        found = {e.replica for e in self.stack.events(self.began_at, "cordoned")}
        return found | {e.replica for e in self.stack.events(self.began_at, "draining") if e.detail == "restart"}


def served_healthy_s(stack: RunningStack, revision: str) -> float:
    """Return for how long a revision of the east has served healthy, by the daemon's own record."""
    (tick,) = stack.ticks(1)
    pools = (tick.entry.record.get("memory") or {}).get("pools", {})
    known = pools.get(str(stack.key(EAST)), {}).get("revisions", {}).get(revision, {})
    return float(known.get("healthy_s", 0.0))


def test_a_slow_replica(stack: RunningStack, load: Load, measured: Measured) -> None:
    case = Case(stack, load, measured)
    victim = min(case.before)
    stack.do(stack.stack.platform.inject(case.east, victim, {"kind": "slow", "factor": 3}))
    case.believed(victim, "F8")
    case.note("out of traffic after", stack.until(lambda: not stack.in_traffic(victim), f"{victim} is out of traffic"))
    good_at = stack.until(lambda: len({r.id for r in stack.serving(EAST)} - {victim}) >= REPLICAS, "as many serve")
    case.note("as many serve again after", good_at)
    over_at = stack.until(lambda: victim not in {r.id for r in stack.pool(EAST).replicas}, "its life is over")
    case.note("its life over after", over_at)
    assert case.errors() == 0, stack.story()
    assert case.restarted() == {victim}, stack.story()


@pytest.mark.parametrize(
    ("revision", "faults"),
    [("2", [{"kind": "start-crash"}]), ("3", [{"kind": "errors", "share": 0.8}])],
    ids=["crashes at its start", "answers with errors"],
)
def test_a_revision_that(
    stack: RunningStack, load: Load, measured: Measured, revision: str, faults: Sequence[Mapping[str, Any]]
) -> None:
    stack.until(lambda: served_healthy_s(stack, "1") > GOOD_AFTER_S, "the first revision is on record as good")
    case = Case(stack, load, measured)
    stack.do(stack.stack.platform.roll_out(case.east, revision, faults, step_s=4.0))
    case.believed("", "F3")
    case.note("paused after", stack.until(lambda: bool(stack.events(case.began_at, "paused")), "the rollout is paused"))
    case.note("rolled back after", stack.until(lambda: stack.pool(EAST).revision == "1", "the good revision is back"))
    stack.settle()
    whole_at = stack.until(lambda: {r.revision for r in stack.pool(EAST).replicas} == {"1"}, "only those of before")
    case.note("as many of the good one serve after", whole_at)
    lost = case.before - {r.id for r in stack.serving(EAST)}
    measured.note("good replicas given up meanwhile", len(lost), "")
    failed = case.errors()
    assert len(stack.events(case.began_at, "rolled back")) == 1, stack.story()
    assert not case.restarted() & case.before, stack.story()
    if faults[0]["kind"] == "start-crash":
        assert (failed, lost) == (0, set()), stack.story()


@pytest.mark.parametrize("fault", ["kill", "refuse"])
def test_loss_of_a_whole_pool(stack: RunningStack, load: Load, measured: Measured, fault: str) -> None:
    case = Case(stack, load, measured)
    share = stack.share(EAST)
    stack.do(stack.stack.platform.inject(case.east, "*", {"kind": fault}))
    away_at = stack.until(lambda: stack.share(EAST) == 0.0, "its traffic goes elsewhere", 20.0)
    case.believed(*((min(case.before), "F2") if fault == "kill" else ("", "F12")))
    case.note("out of traffic after", away_at)
    if fault == "refuse":
        stack.do(stack.stack.platform.inject(case.east, "*", {"kind": "clear"}))
    case.note("first traffic again after", stack.until(lambda: stack.share(EAST) > 0.0, "the first of it comes back"))
    case.note("as much traffic again after", stack.until(lambda: stack.share(EAST) > 0.9 * share, "all of it is back"))
    case.errors()
    assert not load.errors(away_at + FOLLOWS_S), f"{measured}\n{stack.story()}"
    assert case.restarted() == set(), stack.story()
    seen = [weight_of_east(tick, str(case.east)) for tick in stack.ticks(since_at=away_at) if tick.decision]
    largest = max(after - before for before, after in pairwise(seen))
    measured.note("largest step on the way back", round(largest, 3), "of all traffic")
    assert 0 < largest <= MOST_AT_ONCE + 1e-6, seen


def weight_of_east(tick: Tick, key: str) -> float:
    """Return the share that a tick found the east to have."""
    (weight,) = (p["weight"] for p in tick.entry.record["fleet"]["pools"] if p["key"] == key)
    return float(weight)
