"""Whatever the API does, is nothing written twice, by nobody but the leader, and by no plan that the world left behind?

Two candidates for one lease, with everything that ``run`` gives a controller, on the project's API server under random
faults: refusals, lost answers, broken watches, partitions, expired and reduced rights, processes that are paused in the
middle of their writes, sick engines, rollouts, autoscalers of others. What was written is judged by the server's trail.

Some of the 200 schedules are played each time; ``FORESAIL_SCHEDULES=200`` plays all.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from simulations.kubernetes_api.running import running_api
from tests.builders import AT, FixedClock
from tests.builders_api_faults import Schedule
from tests.builders_kube_rig import BOOKMARKS_S

SCHEDULES = int(os.environ.get("FORESAIL_SCHEDULES", "20"))
ROUNDS = 24


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_nothing_is_written_twice_by_another_than_the_leader_or_by_a_stale_plan(seed: int, tmp_path: Path) -> None:
    clock = FixedClock(AT)
    with running_api(clock=clock, seed=seed, bookmark_every_s=BOOKMARKS_S) as api:
        schedule = Schedule(seed, api, clock, tmp_path)
        try:
            schedule.run(ROUNDS)
            assert schedule.problems() == []
        finally:
            schedule.close()
