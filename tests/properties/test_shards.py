"""Properties of how workloads and budgets are divided over shards, and of who may lead while that changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from controller.leadership import Leadership
from controller.shard_budget import less
from controller.shard_leadership import ShardLeadership
from controller.shard_settings import MOST_SHARDS, Rest, ShardSettings, Spent, home_of
from policies.guardrails import GuardrailSettings
from tests.builders_lease import SETTINGS, Machine, Store

MODELS = [f"vendor-{number % 7}/model-{number}" for number in range(2000)]
UNEVEN_RATIO = 0.25
"""Of 2,000 names on up to eight shards, at least 250 each: five standard deviations are 30 %."""

names = st.text(min_size=1, max_size=60)
counts = st.integers(1, MOST_SHARDS)


def shards(of: int, **more: object) -> list[ShardSettings]:
    return [ShardSettings.model_validate({"index": index, "of": of, **more}) for index in range(of)]


@given(model=names, of=counts)
def test_every_model_is_in_exactly_one_shard(model: str, of: int) -> None:
    assert [shard.has(model) for shard in shards(of)].count(True) == 1


@given(model=names, of=counts, pinned=st.data())
def test_a_pinned_model_is_in_the_shard_that_it_is_pinned_to(model: str, of: int, pinned: st.DataObject) -> None:
    pin = pinned.draw(st.integers(0, of - 1))
    assert [shard.index for shard in shards(of, pins={model: pin}) if shard.has(model)] == [pin]


@given(model=names, of=st.integers(1, MOST_SHARDS - 1))
def test_with_one_more_shard_a_model_stays_or_moves_to_that_one(model: str, of: int) -> None:
    assert home_of(model, of + 1) in (home_of(model, of), of)


@given(of=st.integers(2, 8))
def test_shards_have_about_as_many_models_each(of: int) -> None:
    found = Counter(home_of(model, of) for model in MODELS)
    even = len(MODELS) / of
    assert all(abs(found[index] - even) <= UNEVEN_RATIO * even for index in range(of))
    moved = sum(home_of(model, of) != home_of(model, of + 1) for model in MODELS)
    assert moved <= (1 + UNEVEN_RATIO) * len(MODELS) / (of + 1)


@given(total=st.integers(0, 10**9), shares=st.lists(st.integers(1, 1000), min_size=1, max_size=MOST_SHARDS))
def test_parts_of_a_budget_sum_to_it(total: int, shares: list[int]) -> None:
    parts = [shard.share_of(total) for shard in shards(len(shares), shares=shares)]
    assert sum(parts) == total
    weight = sum(shares)
    assert all(abs(part - total * share / weight) < 1 + 1e-6 * total for part, share in zip(parts, shares, strict=True))


@st.composite
def spending(draw: st.DrawFn) -> tuple[int, list[int], list[int], list[tuple[int, int, int]]]:
    """A budget, shares, what is asked for at first, and steps of (shard, age of what it knows of others, wish)."""
    of = draw(st.integers(2, 4))
    some = st.integers(0, 40)
    sizes = st.lists(some, min_size=of, max_size=of)
    steps = st.lists(st.tuples(st.integers(0, of - 1), st.integers(0, 5), some), max_size=40)
    shares = draw(st.lists(st.integers(1, 9), min_size=of, max_size=of))
    return draw(st.integers(0, 60)), shares, draw(sizes), draw(steps)


@given(told=spending())
def test_shards_that_hear_late_of_each_other_never_spend_more_than_the_budget_together(
    told: tuple[int, list[int], list[int], list[tuple[int, int, int]]],
) -> None:
    budget, shares, first, steps = told
    several = [shard.beside(Rest(gpus=budget)) for shard in shards(len(shares), shares=shares)]
    history = [first]
    for index, age, wish in steps:
        known, now = history[max(0, len(history) - 1 - age)], history[-1]
        shard = several[index]
        elsewhere = {other: Spent(gpus) for other, gpus in enumerate(known) if other != index}
        part = GuardrailSettings(gpu_budget=shard.share_of(budget))
        left = less(part, shard.overdrawn(elsewhere)).gpu_budget
        assert left is not None
        # As ``spend_within`` does: growth ends at the budget, and nothing that runs is taken away for it.
        after = wish if wish <= now[index] else max(now[index], min(wish, left))
        history.append([*now[:index], after, *now[index + 1 :]])
        assert sum(history[-1]) <= max(budget, sum(now)), history


@given(of=counts, index=st.integers(0, MOST_SHARDS - 1))
def test_all_shards_of_one_division_call_it_alike(of: int, index: int) -> None:
    layouts = {shard.layout for shard in shards(of)}
    assert layouts == {ShardSettings(index=index % of, of=of).layout}
    others = [*shards(of % MOST_SHARDS + 1), *shards(of, pins={"a": 0}), *shards(of, shares=[2] * of)]
    assert layouts.isdisjoint({shard.layout for shard in others})


@dataclass
class Process:
    """One replica of one shard, by the clock of its own machine, which is ``ahead_s`` of the others'."""

    shard: ShardSettings
    machine: Machine
    leadership: Leadership | ShardLeadership
    ahead_s: float


@dataclass
class Cluster:
    """Leases, and processes of several divisions that stand for them."""

    fleet: Store = field(default_factory=Store)
    leases: dict[str, Store] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    at_s: float = 0.0

    def start(self, shard: ShardSettings, ahead_s: float) -> None:
        name, machine = f"process-{len(self.processes)}", Machine(self.at_s + ahead_s)
        if shard.whole:
            leadership: Leadership | ShardLeadership = machine.candidate(self.fleet, name)
        else:
            own = machine.candidate(self.leases.setdefault(shard.title, Store()), name)
            clock = lambda: machine.at_s  # noqa: E731 - both clocks of one machine
            shared = Leadership(self.fleet, SETTINGS, shard.layout, clock, clock, shared=True)
            leadership = ShardLeadership(own, shared)
        self.processes.append(Process(shard, machine, leadership, ahead_s))

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds
        for process in self.processes:
            process.machine.at_s = self.at_s + process.ahead_s

    def leading(self) -> list[ShardSettings]:
        return [process.shard for process in self.processes if process.leadership.leads]


divisions = st.sampled_from([*shards(1), *shards(2), *shards(3), *shards(2, pins={"a": 1})])
steps = st.lists(
    st.tuples(st.floats(0.0, 8.0), st.lists(st.integers(0, 11), max_size=6), st.integers(-8, 11)), max_size=60
)


@given(starts=st.lists(st.tuples(divisions, st.floats(-1e6, 1e6)), min_size=2, max_size=12), steps=steps)
def test_whatever_starts_sleeps_or_ends_only_shards_of_one_division_lead_each_by_one_process(
    starts: list[tuple[ShardSettings, float]], steps: list[tuple[float, list[int], int]]
) -> None:
    cluster = Cluster()
    for shard, ahead_s in starts:
        cluster.start(shard, ahead_s)
    for seconds, awake, ending in steps:
        cluster.sleep(seconds)
        for number in awake:
            if number < len(cluster.processes):
                cluster.processes[number].leadership.step()
                leading = cluster.leading()
                assert len({shard.layout for shard in leading}) <= 1, leading
                assert len({shard.title for shard in leading}) == len(leading), leading
        if 0 <= ending < len(cluster.processes):
            cluster.processes[ending].leadership.resign()
