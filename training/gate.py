"""May the challenger take the champion's place? Only if it was no worse on recent load that neither was fitted on.

Twice: asked again at past instants, and in the closed loop of a simulated fleet, where what counts is what was served
and what it cost (``docs/decisions/0036``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from controller.errors import BadInput
from controller.ports import ModelRegistry, ModelVersion
from forecasting.forecaster import Forecaster
from forecasting.series import REQUESTS
from simulations.case import SimulationSettings
from training.backtest import Score, ask, examination, score
from training.candidates import BASELINE, PLAIN
from training.closed_loop import NOBODY, LoopRun, run_in
from training.dataset import data_digest, split_in_time
from training.held_out_world import held_out_world
from training.history import History
from training.verdict import Evidence, GateSettings, Verdict, verdict_of
from training.versions import later_ratio, lead_time_of, load_version

_BACKTEST_SHARE = 0.3  # of the work


@dataclass(frozen=True, slots=True)
class Rival:
    """Who is judged: a version and its forecaster; neither where there is no champion yet."""

    version: ModelVersion | None
    forecaster: Forecaster | None

    @property
    def number(self) -> str:
        """Version number, empty without one."""
        return "" if self.version is None else self.version.version


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """A history and the newest share of it that no rival was fitted on."""

    history: History
    ratio: float

    @property
    def test_from(self) -> int:
        """First row of that share."""
        return split_in_time(len(self.history.series), 0.0, self.ratio).test_from

    @property
    def amount(self) -> float:
        """Requests in it."""
        return float(np.nansum(self.history.series.values[self.test_from :, REQUESTS]) * self.history.series.step_s)


def judge(
    registry: ModelRegistry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    histories: Sequence[History],
    settings: GateSettings,
    elapsed: Callable[[], float],
    on_progress: Callable[[float], None] = lambda _: None,
    *,
    simulation: SimulationSettings | None = None,
) -> Verdict:
    """Return the verdict on a registered version, as ``judge_rivals`` comes to it.

    Args:
        registry: Where both are.
        challenger: Who wants to serve.
        champion: Who serves; None where nobody does yet.
        histories: Load to judge on. What one of the two was fitted on is left out where it is known.
        settings: How to judge.
        elapsed: Stopwatch in seconds.
        on_progress: Called with the share that is done.
        simulation: Pools, objective and lead time of the closed loop; by default the usual pool, and the lead time
            that the challenger was fitted for.

    Raises:
        BadInput: If an artifact is refused, or no history is long enough to judge on.
        RegistryError: If an artifact cannot be fetched.
    """
    old = Rival(champion, None if champion is None else load_version(registry, champion))
    new = Rival(challenger, load_version(registry, challenger))
    held_out = [HeldOut(each, _held_out_ratio(each, histories, (new, old), settings)) for each in histories]
    if simulation is None:
        lead_time_s = lead_time_of(challenger)
        simulation = SimulationSettings() if lead_time_s is None else SimulationSettings(lead_time_s=lead_time_s)
    return judge_rivals(new, old, held_out, settings, simulation, elapsed, on_progress)


def judge_rivals(
    new: Rival,
    old: Rival,
    held_out: Sequence[HeldOut],
    settings: GateSettings,
    simulation: SimulationSettings,
    elapsed: Callable[[], float],
    on_progress: Callable[[float], None] = lambda _: None,
) -> Verdict:
    """Ask both at the same recent origins, then let both serve the same recent load, and compare.

    Where there is no champion the last value stands in, and in the closed loop whom the daemon asks without a model: a
    first model has to be worth having.

    Raises:
        BadInput: If a history is too short to judge on, or its load does not fit the pools.
    """
    new_scores, old_scores = _scores(
        (new, old), held_out, settings, elapsed, lambda share: on_progress(_BACKTEST_SHARE * share)
    )
    new_runs, old_runs = _runs(
        (new, old),
        sorted(held_out, key=lambda each: -each.amount)[: settings.world.most_series],
        settings,
        simulation,
        lambda share: on_progress(_BACKTEST_SHARE + (1.0 - _BACKTEST_SHARE) * share),
    )
    objective_ratio = simulation.policy.objective.attainment_ratio
    return verdict_of(
        new.number,
        old.number,
        Evidence(new_scores, new_runs),
        Evidence(old_scores, old_runs),
        objective_ratio,
        settings,
    )


def _scores(
    rivals: Sequence[Rival],
    held_out: Sequence[HeldOut],
    settings: GateSettings,
    elapsed: Callable[[], float],
    on_progress: Callable[[float], None],
) -> tuple[list[Score], list[Score]]:
    rows: tuple[list[Score], list[Score]] = ([], [])
    for number, each in enumerate(held_out):
        try:
            exam = examination(each.history, settings.lead_s, settings.max_origins, each.ratio)
        except ValueError as error:
            raise BadInput(str(error), each.history.name, "give a longer history") from error
        last_value = ask(exam, BASELINE, PLAIN[BASELINE](), elapsed)
        for turn, rival in enumerate(rivals):

            def show(share: float, done: float = number + turn / 2) -> None:
                on_progress((done + share / 2) / len(held_out))

            label = BASELINE if rival.version is None else f"version {rival.number}"
            answers = last_value if rival.forecaster is None else ask(exam, label, rival.forecaster, elapsed, show)
            rows[turn].extend(score(exam, answers, last_value))
    return rows


def _runs(
    rivals: Sequence[Rival],
    replayed: Sequence[HeldOut],
    settings: GateSettings,
    simulation: SimulationSettings,
    on_progress: Callable[[float], None],
) -> tuple[list[LoopRun], list[LoopRun]]:
    runs: tuple[list[LoopRun], list[LoopRun]] = ([], [])
    each_of = [(held_out, seed) for held_out in replayed for seed in range(settings.seeds)]
    for number, (held_out, seed) in enumerate(each_of):
        seeded = simulation.model_copy(update={"seed": simulation.seed + seed})
        world = held_out_world(held_out.history, held_out.test_from, seeded, settings.world)
        for turn, rival in enumerate(rivals):

            def show(share: float, done: float = number + turn / 2) -> None:
                on_progress((done + share / 2) / len(each_of))

            label = NOBODY if rival.version is None else f"version {rival.number}"
            runs[turn].append(run_in(world, label, rival.forecaster, show))
    return runs


def _held_out_ratio(
    history: History, histories: Sequence[History], rivals: Sequence[Rival], settings: GateSettings
) -> float:
    """Return the share to judge on: none of it may have been in the training or validation part of either model.

    Told by the instants that each history was learned until, and by the digest of all that a version was fitted to.
    """
    digests = {data_digest([history.series]), data_digest([each.series for each in histories])}
    ratio = settings.held_out_ratio
    for version in (rival.version for rival in rivals):
        if version is not None and version.tags.get("data_digest") in digests:
            ratio = min(ratio, float(version.tags.get("test_ratio", ratio)))
        if version is not None:
            ratio = min(ratio, later_ratio(history, version))
    if ratio <= 0:
        raise BadInput(
            "one of the models has learned from all of this history, nothing is left to judge on",
            history.name,
            "give a later history, or train with a test part",
        )
    return ratio
