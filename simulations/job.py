"""What is one run, told in words and numbers only, so that another process can do it as well?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from controller.adapters.system_clock import SystemClock
from controller.errors import BadInput
from controller.ports import AuditLog
from forecasting.forecaster import Forecaster
from forecasting.series import LoadSeries
from simulations.case import Case, SimulationSettings, prepare
from simulations.generator import GeneratedTrace
from simulations.runner import Tick, replay
from simulations.scenario_workload import Workload
from simulations.scorecard import Curves, Scorecard
from simulations.timeline import Timeline
from simulations.trace import Trace
from simulations.trace_files import GENERATED, RequestFile, names_a_file, open_trace
from simulations.trace_limits import Part, check_amount, check_left
from simulations.trace_load import load_before
from simulations.trace_steps import Concat, Merge, Splice, composed, parse_step
from simulations.trace_views import scaled, sliced


class OpenTrace(NamedTuple):
    """A part of a trace, the load before it, and how many failed requests a recording has in it that are left out."""

    trace: Trace
    before: LoadSeries | None
    left_out_requests: int


@dataclass(frozen=True, slots=True)
class TraceChoice:
    """Which trace, and what of it.

    ``name`` is what tables call it. Without ``start_s`` a recording is replayed from its beginning, a generated trace
    where it is most eventful. ``trace_model`` to ``arrival_cv`` are as in ``simulations.trace_files.open_trace``. A
    ``workload`` takes the place of the file; ``steps`` (``simulations.trace_steps``) change what is opened.
    """

    path: Path
    name: str
    scale: float = 1.0
    start_s: float | None = None
    duration_s: float | None = None
    trace_model: str | None = None
    token_shape: str = "chat"  # noqa: S105 - not a password
    arrivals: str = "poisson"
    arrival_cv: float = 3.0
    workload: Workload | None = None
    steps: tuple[str, ...] = ()

    def open(self, settings: SimulationSettings) -> OpenTrace:
        """Return the trace, the load before it where it begins later than the file, and what was left out.

        The virtual clock shows what the trace's own clock did (``on_the_clock_of``), so that hours and weekdays are
        those that a model was trained on. The history is what the daemon would read from its metrics store at the
        start: in steps of a tick, up to the kept span, ending when the run begins.

        Raises:
            BadInput: If there is no such trace, a row of it is wrong, or there is nothing or too much in the part that
                is asked for.
        """
        source = self._source(settings.seed)
        opened = self._composed(source, settings.seed)
        start_s, duration_s = self.part_of(opened)
        part = sliced(opened, start_s, duration_s)
        stop_s = math.inf if duration_s is None else start_s + duration_s
        tick_s, kept_s = settings.policy.tick_s, settings.forecast.kept_s
        check_amount(opened, Part(start_s, stop_s, kept_s, self.scale, tick_s))
        failed = 0
        if isinstance(source, RequestFile):
            # Steps move requests, so that a part of the result is no part of the recording.
            failed = (
                source.failed_between(start_s, stop_s) if source is opened else source.failed_between(0.0, math.inf)
            )
        whole = scaled(opened, self.scale, settings.seed)
        trace = part if whole is opened else sliced(whole, start_s, duration_s)
        check_left(trace, self.scale)
        if start_s <= 0:
            return OpenTrace(trace, None, failed)
        before = load_before(whole, start_s, tick_s, kept_s)
        began_at = on_the_clock_of(trace, settings).fleet.epoch_at - len(before) * before.step_s
        return OpenTrace(trace, LoadSeries(began_at, before.step_s, before.values), failed)

    def opened(self, seed: int) -> Trace:
        """Return the whole trace with its steps applied, not scaled.

        Raises:
            BadInput: If there is no such trace.
        """
        return self._composed(self._source(seed), seed)

    def _composed(self, source: Trace, seed: int) -> Trace:
        return composed(source, self.steps, seed, lambda path: self._file(Path(path), seed))

    def _source(self, seed: int) -> Trace:
        """Return what the steps begin with."""
        if self.workload is not None:
            return self.workload.opened(self.name, seed)
        trace = self._file(self.path, seed, self.trace_model)
        # The seconds of steps are those of the part that would be replayed without them.
        return sliced(trace, *self.part_of(trace)) if self.steps and isinstance(trace, GeneratedTrace) else trace

    def _file(self, path: Path, seed: int, model: str | None = None) -> Trace:
        return open_trace(
            path,
            seed=seed,
            model=model,
            token_shape=self.token_shape,
            arrivals=self.arrivals,
            arrival_cv=self.arrival_cv,
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that decide what is in the trace, the recording first."""
        recording = self.path if self.workload is None else self.workload.trace
        shapes = (self.token_shape,) if self.workload is None else (self.token_shape, self.workload.token_shape)
        named = [
            *([] if recording is None or str(recording) == GENERATED else [Path(recording)]),
            *(Path(shape) for shape in shapes if names_a_file(shape)),
            *(Path(step.path) for spec in self.steps if isinstance(step := parse_step(spec), Concat | Splice | Merge)),
        ]
        return tuple(dict.fromkeys(named))

    def part_of(self, trace: Trace) -> tuple[float, float | None]:
        """Return where in ``trace`` to begin and for how long to go on (None: to the end), in seconds."""
        if self.start_s is None and self.workload is None and isinstance(trace, GeneratedTrace):
            start_s, length_s = trace.settings.eventful_s
            return start_s, length_s if self.duration_s is None else self.duration_s
        return self.start_s or 0.0, self.duration_s


@dataclass(frozen=True, slots=True)
class RunReport:
    """What is kept of a run: a scorecard, curves for the report, and where it came from.

    Attributes:
        left_out_requests: Failed requests of the recording (no output tokens) in the part that was replayed.
        variant: The setting that a sweep tried, such as ``hpa target_ratio=0.8``; empty for settings as they are given.
        replica_requests_per_s: Load that one replica of each pool sustained in the load test, by pool key text.
    """

    trace: str
    described: str
    generated: bool
    seed: int
    scorecard: Scorecard
    timeline: Timeline
    curves: Curves
    replica_requests_per_s: dict[str, float]
    left_out_requests: int = 0
    variant: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what was replayed and the scorecard, ready for ``json.dumps``; the variant where it is one."""
        facts = {"trace": self.trace, "generated": self.generated, "left_out_requests": self.left_out_requests}
        variant = {"variant": self.variant} if self.variant else {}
        return {**facts, **variant, "seed": self.seed, **self.scorecard.as_json()}


@dataclass(frozen=True, slots=True)
class Job:
    """One policy on one trace.

    ``model_dir`` holds a trained model that Foresail asks first; ``variant`` names the setting that a sweep tries.
    """

    trace: TraceChoice
    policy: str
    settings: SimulationSettings
    model_dir: Path | None = None
    variant: str = ""

    def check(self) -> None:
        """Make sure that it can be done, up to its first tick.

        Raises:
            BadInput: If the trace, the model or the settings cannot be used.
        """
        _, _, case = self._set_up()
        case.fleet(case.first)

    def run(
        self,
        audit: AuditLog | None = None,
        on_tick: Callable[[Tick], None] | None = None,
        opened: OpenTrace | None = None,
    ) -> RunReport:
        """Do it; with ``opened`` the trace is not opened again.

        Raises:
            BadInput: If the trace, the model or the settings cannot be used.
        """
        opened, forecasters, case = self._set_up(opened)
        stopwatch = SystemClock()
        began_s = stopwatch.elapsed()
        result = replay(case, self.policy, forecasters, audit, on_tick)
        wall_s = stopwatch.elapsed() - began_s
        return RunReport(
            trace=self.trace.name,
            described=opened.trace.describe(),
            generated=opened.trace.generated,
            seed=self.settings.seed,
            scorecard=replace(result.scorecard, wall_s=wall_s),
            timeline=result.timeline,
            curves=result.curves,
            replica_requests_per_s={str(pool.key): pool.requests_per_s for pool in case.pools},
            left_out_requests=opened.left_out_requests,
            variant=self.variant,
        )

    def _set_up(self, opened: OpenTrace | None = None) -> tuple[OpenTrace, tuple[Forecaster, ...], Case]:
        opened = self.trace.open(self.settings) if opened is None else opened
        forecasters = forecaster_chain(self.model_dir, self.settings) if self.policy == "foresail" else ()
        return opened, forecasters, prepare(opened.trace, on_the_clock_of(opened.trace, self.settings), opened.before)


def on_the_clock_of(trace: Trace, settings: SimulationSettings) -> SimulationSettings:
    """Return the settings with the virtual clock set to the second in which the trace begins, unless they set it."""
    if "epoch_at" in settings.fleet.model_fields_set:
        return settings
    fleet = settings.fleet.model_copy(update={"epoch_at": float(math.floor(trace.begins_at))})
    return settings.model_copy(update={"fleet": fleet})


def forecaster_chain(model_dir: Path | None, settings: SimulationSettings) -> tuple[Forecaster, ...]:
    """Return who is asked for forecasts, in order of preference; when all step back, Foresail is reactive only.

    Raises:
        BadInput: If the model in ``model_dir`` is damaged, or cannot see as far as a replica takes to start.
    """
    # Imported here: torch takes seconds, and rivals need no forecaster.
    from forecasting.company import forecasters_of

    model = None if model_dir is None else _trained(model_dir, settings)
    return forecasters_of(settings.forecast.company, model)


def _trained(model_dir: Path, settings: SimulationSettings) -> Forecaster:
    """Return the model in the folder, if it fits the run."""
    from forecasting.artifact import ArtifactRefused, load_artifact

    try:
        model = load_artifact(model_dir)
    except ArtifactRefused as refused:
        raise BadInput(refused.what, refused.where, refused.remedy) from None
    spec = model.manifest.card.spec
    step_s = settings.forecast.step_s
    if spec.step_s != step_s:
        what = f"the model was trained on steps of {spec.step_s:g} s, forecasts are made in steps of {step_s:g} s"
        raise BadInput(what, str(model_dir), f"train one with that step, or set forecast.step_s={spec.step_s:g}")
    reach_s = spec.lead_steps[-1] * spec.step_s
    needed_s = settings.lead_time_p90_s + settings.policy.tick_s
    if reach_s < needed_s:
        what = f"the model's horizon of {reach_s:g} s is shorter than the lead time and a tick ({needed_s:g} s)"
        raise BadInput(what, str(model_dir), "train one with a longer horizon, or give a shorter --lead-time-s")
    return model
