"""Do real daemons and a real metrics store go down and come back without an act too many, or one too few?"""

from __future__ import annotations

import math
import signal
from collections import Counter
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import yaml

from tests.builders_stack import RunningStack, Tick, prior, running_stack, steady
from tests.live_times import Measured

OUTAGE_S = 60.0
POOL = "engines"
SHAPE = (800, 40)
SETTLED_S = 10.0
"""More than the windows that a smaller fleet waits for."""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(
        tmp_path_factory.mktemp("outages"), f"{POOL}=emulated-small,max=4", settings=prior(*SHAPE)
    ) as running:
        yield running


def kill_daemon(stack: RunningStack) -> float:
    """Kill it with -9, at once, and return when it was gone; it is not begun again."""
    service = stack.stack.daemon
    assert service.child is not None
    service.child.signal(signal.SIGKILL)
    stack.do(service.stop())
    return stack.now


def done_writes(stack: RunningStack) -> list[tuple[int, int]]:
    """Return ``(version, replicas)`` of every scaling that the audit log has as done, oldest first."""
    key = str(stack.key(POOL))
    return [
        (plan["version"], plan["desired"])
        for tick in stack.ticks(5_000)
        for plan in tick.decision.get("scaling", ())
        if ("scale", key, "done") in {(r["act"], r["subject"], r["outcome"]) for r in tick.results}
    ]


def check_that_log_and_platform_agree(stack: RunningStack) -> None:
    """Each version of the pool was written once, by an act on record, and none on record is missing."""
    pool, done = stack.pool(POOL), done_writes(stack)
    assert [version for version, _ in done] == list(range(1, pool.version)), stack.story(120.0)
    assert not done or done[-1][1] == pool.desired, stack.story(120.0)
    assert all(tick.settled for tick in stack.ticks(5_000)[:-1]), stack.story(120.0)
    grown = sum(max(0, wanted - had) for (_, wanted), (_, had) in zip(done, [(0, 1), *done], strict=False))
    restarts = [tick for tick in stack.ticks(5_000) if any(r["act"] == "restart" for r in tick.results)]
    assert len(stack.events(0.0, "pending")) == 1 + grown + len(restarts), stack.story(120.0)


def set_bounds(stack: RunningStack, least: int, most: int) -> None:
    """Let the operator change the pool's bounds in the settings file of the running daemon."""
    file = stack.stack.files.settings
    tree = yaml.safe_load(file.read_text())
    tree["policy"]["pools"][str(stack.key(POOL))].update(min_replicas=least, max_replicas=most)
    draft = file.with_suffix(".new")
    draft.write_text(yaml.safe_dump(tree, sort_keys=False))
    draft.rename(file)


def test_a_daemon_killed_in_the_middle_of_a_scale_up_goes_on_where_it_was(
    stack: RunningStack, measured: Measured
) -> None:
    version, began_at = stack.pool(POOL).version, stack.now
    load = stack.play(steady(5.0, 60.0, *SHAPE))
    asked_at = stack.until(lambda: stack.pool(POOL).version > version, "more replicas are asked for")
    child = stack.stack.daemon.child
    assert child is not None
    child.signal(signal.SIGKILL)
    assert any(r.starting for r in stack.pool(POOL).replicas)
    tick = stack.until_tick(lambda t: t.at > asked_at + 1.0 and bool(t.decision), "it decides again", asked_at)
    served_at = stack.settle()
    load.stop()
    measured.note("killed after the load came", asked_at - began_at)
    measured.note("decides again after", tick.at - asked_at)
    measured.note("all that was asked for serves after", served_at - asked_at)
    measured.note("requests that failed", len(load.errors()), "")
    assert stack.stack.daemon.restarts == 1
    assert not load.errors(), measured
    check_that_log_and_platform_agree(stack)


def test_a_minute_without_prometheus_changes_nothing_and_is_survived(stack: RunningStack, measured: Measured) -> None:
    heavy, light = stack.play(steady(5.0, 120.0, *SHAPE)), stack.play(steady(0.5, 150.0, *SHAPE))
    stack.until(
        lambda: len(stack.serving(POOL)) >= 3 and stack.stack.platform.settled(), "enough replicas for the load"
    )
    daemon = stack.stack.daemon.child
    assert daemon is not None
    status = stack.status_url
    stack.do(stack.stack.prometheus.stop())
    stopped_at = stack.now
    blind = stack.until_tick(lambda t: bool(t.entry.record.get("error")), "a tick that sees nothing", stopped_at)
    before, shares = stack.pool(POOL), stack.stack.platform.shares(stack.options.model)
    heavy.stop()  # whoever trusts what was last seen would keep the replicas, whoever takes nothing for zero would not
    assert httpx.get(f"{status}/readyz", trust_env=False).status_code == 503
    stack.until(lambda: stack.now >= stopped_at + OUTAGE_S, "a minute is over", OUTAGE_S + 10.0)
    assert httpx.get(f"{status}/healthz", trust_env=False).status_code == 200
    what = stack.story(OUTAGE_S + 20.0)
    assert stack.pool(POOL).version == before.version, what
    assert {r.life for r in stack.pool(POOL).replicas} == {r.life for r in before.replicas}, what
    assert stack.stack.platform.shares(stack.options.model) == shares, what
    assert not stack.events(blind.at), what
    acted = [tick for tick in stack.ticks(since_at=blind.at) if tick.decision or tick.results]
    assert not acted, what

    began_at = stack.now
    stack.do(stack.stack.prometheus.begin())
    seen = stack.until_tick(
        lambda t: bool(t.decision.get("memory")) and not t.entry.record["error"], "it sees", began_at
    )
    acted_at = stack.until(lambda: stack.pool(POOL).desired < before.desired, "the load that went is noticed", 90.0)
    light.stop()
    measured.note("first tick that knew it was blind after", blind.at - stopped_at)
    measured.note("acts while it was blind", len(acted), "")
    measured.note("first decision after Prometheus was back", seen.at - began_at)
    measured.note("first shrinking after that", acted_at - began_at)
    measured.note("requests that failed", len(light.errors()) + len(heavy.errors()), "")
    assert stack.stack.daemon.child is daemon, "the daemon did not live through it"
    assert not light.errors(), measured
    assert not heavy.errors(), measured
    assert not stack.events(began_at, "cordoned", "failed"), stack.story()


def announced(stack: RunningStack, newest: str) -> bool:
    """Whether an act was announced after the row ``newest``."""
    last = stack.newest_row
    return last is not None and int(last.id) > int(newest) and (last.kind == "intended" or "intent" in last.record)


def test_a_daemon_killed_at_random_repeats_and_loses_nothing(stack: RunningStack, measured: Measured) -> None:
    rng = np.random.default_rng(7)
    found: Counter[str] = Counter()
    down_s = []
    for turn in range(4):
        had, newest = stack.pool(POOL), stack.ticks(1)[-1].entry.id
        wanted = 4 if had.desired < 3 else 1
        set_bounds(stack, wanted, wanted)
        if turn % 3:  # as soon as it has said what it is about to do
            stack.until(lambda newest=newest: announced(stack, newest), "an intent", look_s=0.001)  # type: ignore[misc]  # bound on purpose
            stack.pause(rng.uniform(0.0, 0.02) if turn % 3 == 1 else 0.0)
        else:  # as soon as it has done it, before it can say so
            stack.until(lambda had=had: stack.pool(POOL).version > had.version, "a write", look_s=0.001)  # type: ignore[misc]  # bound on purpose
        killed_at = kill_daemon(stack)
        last, written = stack.ticks(1)[-1], stack.pool(POOL).version > had.version
        when = "after all was on record" if last.settled else "before the outcome was on record"
        found[f"{when}, {'after' if written else 'before'} the write"] += 1
        stack.do(stack.stack.daemon.begin())
        stack.until(lambda: bool(stack.ticks(1, killed_at)), "the next daemon ticks")  # noqa: B023 - waited for here
        down_s.append(stack.now - killed_at)
        stack.until(lambda wanted=wanted: stack.pool(POOL).desired == wanted, "what was asked for")  # type: ignore[misc]  # bound on purpose
    set_bounds(stack, 1, 4)
    for when, count in sorted(found.items()):
        measured.note(f"kills {when}", count, "")
    measured.note("longest until the next tick", max(down_s))
    check_that_log_and_platform_agree(stack)


def test_a_gateway_that_begins_anew_is_not_read_as_another_load(stack: RunningStack, measured: Measured) -> None:
    rate, model = 4.0, stack.options.model
    load = stack.play(steady(rate, 180.0, *SHAPE))

    def seen(tick: Tick) -> float:
        demand = (tick.entry.record.get("fleet") or {}).get("demand", {}).get(model)
        return math.nan if demand is None else float(demand["requests_per_s"])

    def as_it_is(tick: Tick) -> bool:
        return abs(seen(tick) - rate) <= 0.2 * rate

    began_at = stack.now
    stack.until_tick(as_it_is, "the load is seen as it is", began_at)
    stack.until(lambda: len(load.rows) > 20, "counters from which a fall is plain")
    settled_at = stack.now + SETTLED_S
    resized = ("pending", "ready", "draining")
    stack.until(
        lambda: stack.now > settled_at and not stack.events(stack.now - SETTLED_S, *resized),
        "the fleet has the size that this load asks for, whatever there was before",
    )
    before, restarted_at = stack.pool(POOL), stack.now
    stack.do(stack.stack.gateway.stop())
    stack.do(stack.stack.gateway.begin())
    up_at = stack.now
    again = stack.until_tick(as_it_is, "the load is seen as it is again", up_at + 2.0)
    stack.until(lambda: stack.now > up_at + 8.0, "more than the window of the demand is over")
    ticks = [tick for tick in stack.ticks(since_at=restarted_at) if not math.isnan(seen(tick))]
    load.stop()
    measured.note("gateway down for", up_at - restarted_at)
    measured.note("load seen as it is after", again.at - up_at)
    measured.note("most that was seen meanwhile", round(max(map(seen, ticks)) / rate, 2), "times the load")
    measured.note("least that was seen meanwhile", round(min(map(seen, ticks)) / rate, 2), "times the load")
    what = f"{measured}\n{stack.story()}"
    assert max(map(seen, ticks)) < 1.6 * rate, what
    assert seen(ticks[-1]) == pytest.approx(rate, rel=0.25), what
    assert {r.life for r in stack.pool(POOL).replicas} >= {r.life for r in before.replicas}, what
    assert not stack.events(restarted_at, "cordoned", "failed", "draining"), what
