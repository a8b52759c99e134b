"""What becomes of one fleet in two clusters, each behind a real API server, when one of them is cut off?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.ports import TickRecord
from policies.decisions import Page
from tests.builders import settings
from tests.builders_regions import EAST, MODEL, WEST, Regions, two_regions


@pytest.fixture(name="regions")
def _regions(tmp_path: Path) -> Iterator[Regions]:
    with two_regions(tmp_path, settings(EAST, WEST)) as made:
        yield made


def done(record: TickRecord) -> list[tuple[str, str, str]]:
    """Return what was done or tried, but for pages."""
    return [(one.act, one.subject, one.outcome) for one in record.results if one.act != "page"]


def tick(regions: Regions) -> TickRecord:
    """Tick 15 s after the last one."""
    regions.clock.later_s += 15.0
    regions.east.settle()
    record = regions.loop.tick()
    assert record.error == ""
    return record


def test_pools_of_both_clusters_are_one_fleet(regions: Regions) -> None:
    east, west = regions.clusters.pools()
    assert (east.key, west.key) == (EAST, WEST)
    assert [len(pool.serving) for pool in (east, west)] == [2, 2]
    record = tick(regions)
    assert record.fleet is not None
    assert (record.fleet.missing, done(record)) == ((), [])


@pytest.mark.parametrize("how", ["reset", "hang"])
def test_one_is_cut_off_the_other_scales_on_and_afterwards_all_is_seen_again(regions: Regions, how: str) -> None:
    before = tick(regions)
    regions.west.partition("hang" if how == "hang" else "reset")
    regions.until(lambda: regions.untold() == {WEST})
    regions.engines.requests_per_s = 26.0  # 7 replicas, of which 4 are there
    record, *others = (tick(regions) for _ in range(8))
    assert record.fleet is not None
    assert before.fleet is not None
    west = record.fleet.pools[1]
    assert west.roster.replicas == before.fleet.pools[1].roster.replicas
    assert record.fleet.missing == (f"platform:{WEST}",)
    assert {act for one in (record, *others) for act in done(one)} == {("scale", str(EAST), "done")}
    assert (regions.wanted("east"), regions.wanted("west")) == (5, 2)
    regions.engines.requests_per_s = 1.0
    for _ in range(40):  # ten minutes in which next to nothing is needed
        assert not any(subject.startswith(str(WEST)) for _, subject, _ in done(tick(regions)))
    assert regions.wanted("west") == 2

    regions.fleets["west"].patch("deployments", "llama-west", {"spec": {"replicas": 3}})
    assert regions.clusters.pools()[1].desired == 2
    regions.west.heal()
    regions.until(lambda: not regions.untold())
    assert regions.clusters.pools()[1].desired == 3
    assert regions.clusters.notes() == ()


def test_a_region_that_is_lost_altogether_is_failed_over_by_the_route_of_the_hub(regions: Regions) -> None:
    for _ in range(8):
        tick(regions)
    assert regions.route.weights(MODEL) == {EAST: 0.5, WEST: 0.5}
    regions.west.partition("reset")
    regions.engines.dead, regions.engines.died_at = {"west"}, regions.clock.now()
    regions.until(lambda: regions.untold() == {WEST})
    acts = [act for _ in range(8) for act in done(tick(regions))]
    assert ("weights", MODEL, "done") in acts
    assert not any(act[0] == "scale" and act[1] == str(WEST) for act in acts)
    assert {act[0] for act in acts} <= {"weights", "scale"}
    assert regions.route.weights(MODEL) == {EAST: 1.0, WEST: 0.0}
    assert regions.wanted("west") == 2
    assert any(isinstance(page, Page) and page.subject == str(WEST) for page in regions.notifier.pages)

    for _ in range(80):  # nothing is sent there any more, so nothing speaks against it: it is out all the same
        tick(regions)
    assert regions.route.weights(MODEL) == {EAST: 1.0, WEST: 0.0}
    regions.west.heal()
    regions.engines.dead = set()
    regions.until(lambda: not regions.untold())
    for _ in range(20):
        tick(regions)
    assert regions.route.weights(MODEL)[WEST] > 0.3
