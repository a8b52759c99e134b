"""Is capacity given up only once everything agrees, and never held for ever?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.fleet import Phase, PoolState
from policies.memory import PoolMemory
from policies.stabilization import StabilizationSettings, on_their_way, remember_target, stabilize
from tests.builders import AT, KEY, OTHER, pool, replica

SETTINGS = StabilizationSettings(down_window_s=120.0, unforecast_down_window_s=120.0, start_patience_s=900.0)


def stable(
    needed: float,
    state: PoolState,
    memory: PoolMemory,
    at: float = AT,
    spare: float = 0.2,
    starting: int | None = None,
) -> tuple[int, PoolMemory, list[str]]:
    """Return the answer, the memory and the rules that held it."""
    on_way = on_their_way([state], at, SETTINGS) if starting is None else starting
    count, memory, why = stabilize(needed, needed + spare, state, memory, at, SETTINGS, starting=on_way, forecast=False)
    return count, memory, [reason.rule for reason in why]


def settle(state: PoolState, *needs: float, every_s: float = 15.0, spare: float = 0.2) -> tuple[list[int], PoolMemory]:
    """Return the answers to a sequence of needs, each carried out before the next."""
    memory, answers = PoolMemory(), []
    for tick, needed in enumerate(needs):
        count, memory, _ = stable(needed, state, memory, AT + tick * every_s, spare)
        answers.append(count)
        state = pool(count)
    return answers, memory


def test_growth_passes_at_once_and_is_not_rounded_up_by_the_spare() -> None:
    assert settle(pool(3), 7.2)[0] == [8]
    assert settle(pool(2), 3.9)[0] == [4]


def test_shrinking_waits_until_the_whole_window_agrees() -> None:
    answers, _ = settle(pool(6), *[3.0] * 12)
    assert answers == [6] * 9 + [4] * 3  # 120 s are 8 ticks; 3.0 leaves nothing to spare, so one more is kept


def test_the_largest_target_of_the_window_is_kept() -> None:
    answers, _ = settle(pool(6), 2.5, 2.5, 5.5, *[2.5] * 12)
    assert answers[:3] == [6, 6, 6]
    assert answers[11] == 6
    assert answers[-1] == 3


def test_the_window_is_longer_while_there_is_no_forecast_to_trust() -> None:
    settings = StabilizationSettings(down_window_s=30.0, unforecast_down_window_s=300.0)
    memory = PoolMemory(targets=((AT - 500.0, 1), (AT - 200.0, 5), (AT - 100.0, 1)))

    def answer(forecast: bool) -> int:
        return stabilize(1.0, 1.2, pool(6), memory, AT, settings, starting=0, forecast=forecast)[0]

    assert (answer(True), answer(False)) == (2, 5)


def test_what_was_there_when_foresail_came_is_kept_for_the_longer_window_whatever_the_forecast() -> None:
    settings = StabilizationSettings(down_window_s=30.0, unforecast_down_window_s=300.0)
    memory, kept = PoolMemory(), []
    for tick in range(23):
        at = AT + 15.0 * tick
        count, memory, _ = stabilize(1.0, 1.2, pool(6), memory, at, settings, starting=0, forecast=True)
        kept.append(count)
    assert kept == [6] * 20 + [2] * 3  # 300 s are 20 ticks, and from then on it is 30 s


def test_the_first_tick_ever_gives_nothing_up() -> None:
    count, _, rules = stable(1.0, pool(10), PoolMemory())
    assert (count, rules) == (10, ["stabilization"])


def test_a_gap_in_ticks_does_not_empty_the_window() -> None:
    _, memory = settle(pool(6), *[5.5] * 10)
    count, memory, _ = stable(1.5, pool(6), memory, AT + 3600.0)
    assert count == 6
    assert stable(1.5, pool(6), memory, AT + 3600.0 + 121.0)[0] == 2


def test_ticks_longer_than_the_window_still_shrink() -> None:
    assert settle(pool(6), 2.5, 2.5, 2.5, every_s=300.0)[0] == [6, 3, 3]


def low_for_long() -> PoolMemory:
    return PoolMemory(targets=((AT - 500.0, 2), (AT - 60.0, 2)))


def test_while_replicas_start_only_those_are_called_off() -> None:
    growing = pool([*pool(4).replicas, *(replica(f"n{i}", Phase.LOADING, requested_at=AT - 60.0) for i in range(2))])
    count, _, rules = stable(1.5, growing, low_for_long())
    assert (count, rules) == (4, ["no shrink while starting"])


def test_a_replica_that_starts_in_another_pool_holds_this_one_up_too() -> None:
    assert stable(1.5, pool(4), low_for_long(), starting=1)[0] == 4
    assert stable(1.5, pool(4), low_for_long(), starting=0)[0] == 2


def test_starting_replicas_never_make_a_pool_grow() -> None:
    crowded = pool([*pool(6).replicas, replica("n", Phase.PENDING, requested_at=AT)], desired=4)
    assert stable(1.5, crowded, low_for_long())[0] == 4


@pytest.mark.parametrize(("age_s", "counts"), [(0.0, 1), (900.0, 1), (901.0, 0)])
def test_a_replica_that_never_starts_is_not_waited_for_for_ever(age_s: float, counts: int) -> None:
    stuck = pool([replica("n", Phase.PENDING, requested_at=AT - age_s)], KEY)
    assert on_their_way([stuck, pool(3, OTHER)], AT, SETTINGS) == counts
    placed = pool([replica("n", Phase.LOADING, requested_at=AT - 5_000.0, placed_at=AT - age_s)], KEY)
    assert on_their_way([placed], AT, SETTINGS) == counts


def test_a_need_near_a_whole_number_does_not_flap() -> None:
    wobble = [2.0, 1.9] * 20
    assert set(settle(pool(2), *wobble)[0]) == {2}
    assert settle(pool(3), *wobble)[0][-1] == 3  # 2.0 leaves no spare of 0.2
    assert settle(pool(3), *[1.79] * 12)[0][-1] == 2


def test_where_nothing_need_be_spare_the_need_itself_is_reached() -> None:
    assert settle(pool(6), *[5.0] * 12, spare=0.0)[0][-1] == 5
    assert settle(pool(1), *[0.0] * 12, spare=0.0)[0][-1] == 0
    assert settle(pool(1), *[0.01] * 12, spare=0.0)[0][-1] == 1


def test_memory_is_bounded_by_the_longer_window() -> None:
    _, memory = settle(pool(3), *[2.5] * 500)
    assert len(memory.targets) == 10  # eight ticks, now, and the one that opened the window


def test_the_target_in_force_when_the_window_opened_is_kept() -> None:
    memory = PoolMemory(targets=((AT - 500.0, 9), (AT - 400.0, 7), (AT - 10.0, 3)))
    assert remember_target(memory, 2, AT, SETTINGS).targets == ((AT - 400.0, 7), (AT - 10.0, 3), (AT, 2))


def test_the_pool_itself_is_left_as_it_was() -> None:
    state = pool(6)
    stable(2.0, state, low_for_long())
    assert state == replace(pool(6))
