"""What does Prometheus say of the fleet? The ``MetricSource`` port over its query API, for all replicas at once.

clock       the server's clock against ours: beyond a few seconds nothing is believed
names       which of the known metric names exist (``metric_names``), looked up again when some vanish
queries     one per signal and engine, whatever the size of the fleet (``fleet_queries``)
arrays      rows to ``float64[N]``, impossible figures refused (``fleet_answers``)
meaning     counters to rates of arrival (``offered_load``), histograms to attainment (``attainment``)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

import numpy as np

from controller.adapters import fleet_answers
from controller.adapters.fleet_answers import Answers, Notes, ReplicaTable, Target, column
from controller.adapters.fleet_queries import (
    GATEWAYS,
    GPU_SIGNALS,
    RARE,
    SAMPLED_AT,
    Asked,
    counters,
    gateways_query,
    queries,
)
from controller.adapters.gateway_view import GatewayView
from controller.adapters.gpu_view import GpuFigures, of_gpus
from controller.adapters.metric_names import Source, of_scope, probe
from controller.adapters.model_figures import Subjects, attainment, means
from controller.adapters.prometheus_http import PrometheusHttp, Row
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.shard_answers import own_figures, own_rows, replicas_elsewhere
from controller.errors import ObservationError, QueryRefused
from controller.offered_load import ArrivalRates, Arrivals, Counted
from controller.ports import FleetMetrics
from controller.scrape_means import ScrapeMeans
from controller.shard_settings import WHOLE, ShardSettings
from policies.fleet import Demand, PoolKey, ReplicaMetrics, ServiceLevel
from policies.settings import PolicySettings
from policies.slo import ServiceObjective

PRIMED_S = 30.0
"""How long before its first look the counters are read once, so that the first look already has rates."""

_FIRST_PROBE_S = 5.0
"""Names are looked up again after so long at the soonest: a daemon that begins with its fleet comes before the first
scrape of the gateway."""

_SOONEST_PROBE_S = 30.0
_NAMED = 5


class PrometheusSource:
    """``MetricSource`` over the query API. What it keeps between looks are the counters of the last one.

    Attributes:
        sources: Engines, gateways and exporters found, with the names that matched.
        gpus: What exporters of GPU figures told at the last look.
        targets: Where replicas were scraped at the last look.
        took_s: What the last look took, in seconds, by phase: ``query`` until all answers were there as rows, ``parse``
            from there.
    """

    def __init__(
        self,
        client: PrometheusHttp,
        settings: PrometheusSettings,
        policy: PolicySettings,
        elapsed: Callable[[], float],
        shard: ShardSettings = WHOLE,
    ) -> None:
        """Ask ``client``; ``policy`` names the pools that are expected and the objectives that are judged.

        Nothing is asked yet. ``elapsed`` are seconds that never go back. Only what is of ``shard`` is told.
        """
        self._client, self._settings, self._policy, self._elapsed = client, settings, policy, elapsed
        self._pools, self._shard = [PoolKey.parse(key) for key in policy.pools], shard
        self._threads = ThreadPoolExecutor(settings.parallel_queries, thread_name_prefix="prometheus")
        self._engine_rates = ArrivalRates(settings.stale_after_s, settings.min_coverage_ratio)
        self._gateway = GatewayView(settings)
        self._tpot = ScrapeMeans()
        self._lengths: dict[str, tuple[float, float]] = {}
        self._windowed: dict[Asked, tuple[float, Sequence[Row]]] = {}
        self._probed_at = self._began_at = -math.inf
        self._incomplete = False
        self._probing: Future[tuple[Source, ...]] | None = None
        self.sources: tuple[Source, ...] = ()
        self.targets: Sequence[Target] = ()
        self.gpus = GpuFigures()
        self.took_s: dict[str, float] = {}

    def close(self) -> None:
        """Stop asking."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def read(self, at: float) -> FleetMetrics:
        """Return the newest measurements known at ``at``.

        Raises:
            ObservationError: If the store cannot be asked, its clock cannot be trusted, or it knows nothing of any
                engine or gateway.
        """
        started = self._elapsed()
        self._check_clock(at)
        first = not self.sources
        self._look_up_names(at)
        if first:
            primed, _ = self._ask(counters(self.sources, self._settings), at - PRIMED_S)
            self._understood(primed, Notes())
        answers, notes = self._looked_at(at)
        answered = self._elapsed()
        try:
            metrics = self._understood(answers, notes)
        except ObservationError:
            self._windowed = {}  # what cannot be read would be found among what is kept at the next look
            raise
        self.took_s = {"query": answered - started, "parse": self._elapsed() - answered}
        return metrics

    def _check_clock(self, at: float) -> None:
        ahead_s = self._client.now() - at
        if abs(ahead_s) > self._settings.max_clock_skew_s:
            side = "ahead of" if ahead_s > 0 else "behind"
            raise ObservationError(
                f"the clock of the metrics store is {abs(ahead_s):.0f} s {side} ours",
                self._settings.url,
                "set both clocks by a time server; until then the age of a sample means nothing",
            )

    def _look_up_names(self, at: float) -> None:
        """Find out which names exist: at first, from time to time, and soon after some have vanished.

        Some come with the first scrape of a gateway or pool, or with its first request, such as a count of answers: the
        younger this source, the sooner it looks again, so that they are found before twice the time is over that they
        took to come.
        """
        since_s = abs(at - self._probed_at)
        patience_s = max(_FIRST_PROBE_S, abs(at - self._began_at) / 2.0)
        if self._incomplete:
            patience_s = min(patience_s, _SOONEST_PROBE_S)
        if since_s >= min(self._settings.probe_interval_s, patience_s):
            found = self._probed(at)
            if found is None:
                return  # with the names that are known; what is found by then is taken at the next look
            self._began_at = self._began_at if self.sources else at
            self._probed_at = at
            if any(source.names.scope != "gpu" for source in found):  # a fleet of which only the GPUs are left is away
                self.sources = found
        if not self.sources:
            self._probed_at = -math.inf
            raise ObservationError(
                "there is no series of any known engine or gateway",
                self._settings.url,
                "are they scraped, and does prometheus.match fit? `foresail doctor` lists what is looked for",
            )

    def _probed(self, at: float) -> tuple[Source, ...] | None:
        """Return what was found, within the time of a look; None when that is over and some names are known."""
        if self._probing is None:
            self._probing = self._threads.submit(probe, self._client, at, self._settings.match)
        probing = self._probing
        wait([probing], self._settings.read_timeout_s)
        if probing.done():
            self._probing = None
            return probing.result()
        if not self.sources:
            raise ObservationError(
                f"the look-up of metric names is not over after {self._settings.read_timeout_s:g} s",
                self._settings.url,
                "find out what keeps the metrics store busy, or raise prometheus.read_timeout_s",
            )
        return None

    def _looked_at(self, at: float) -> tuple[Answers, Notes]:
        """Return what is known as of ``at``; figures over a window may be some time old, all others are asked for."""
        asked = self._queries()
        refresh_s = self._settings.means_refresh_s
        windowed = {what for what in asked if what.window_s}
        empty = {what.together for what in windowed if not self._windowed.get(what, (at, ()))[1]}
        due = {
            what.together for what in windowed if not 0 <= at - self._windowed.get(what, (-math.inf, ()))[0] < refresh_s
        }
        kept = {what: self._windowed[what] for what in windowed if what.together not in due | empty}
        answers, notes = self._ask({what: query for what, query in asked.items() if what not in kept}, at)
        # All are new at the first look: from then on they take turns, so that no tick pays for all.
        groups = sorted({what.together for what in windowed - set(kept)})
        oldest_s = 0.0 if self._windowed else refresh_s
        ages = dict(zip(groups, np.linspace(0.0, oldest_s, len(groups)).tolist(), strict=True))
        new = {what: (at - ages[what.together], rows) for what, rows in answers.rows.items() if what.window_s}
        self._windowed = kept | new
        return Answers(at, {**{what: rows for what, (_, rows) in kept.items()}, **answers.rows}), notes

    def _queries(self) -> dict[Asked, str]:
        objectives: set[ServiceObjective] = {self._policy.objective, *self._policy.objectives.values()}
        asked = queries(self.sources, sorted(objectives, key=repr), self._settings)
        if self._gateway.addresses:
            asked[Asked("", GATEWAYS)] = gateways_query(self._gateway.addresses, self._settings)
        return asked

    def _ask(self, asked: Mapping[Asked, str], at: float) -> tuple[Answers, Notes]:
        """Return all answers; what was refused is noted, unless it is all that tells of replicas."""
        futures = {self._threads.submit(self._tried, query, at): what for what, query in asked.items()}
        done, late = wait(futures, self._settings.read_timeout_s, FIRST_EXCEPTION)
        for future in late:
            future.cancel()
        failed = next((error for future in done if (error := future.exception()) is not None), None)
        if failed is not None:
            raise failed
        if late:
            raise ObservationError(
                f"{len(late)} of {len(futures)} queries have no answer within {self._settings.read_timeout_s:g} s",
                self._settings.url,
                "find out what keeps the metrics store busy, or raise prometheus.read_timeout_s",
            )
        results = {futures[future]: future.result() for future in done}
        refused = {what: answer for what, answer in results.items() if isinstance(answer, QueryRefused)}
        identities = [what for what in asked if what.signal == SAMPLED_AT]
        if identities and all(what in refused for what in identities):
            raise refused[identities[0]]
        notes = Notes([f"{what.signal}:{what.source or 'all'} ({why.what})" for what, why in refused.items()][:_NAMED])
        return Answers(at, {w: rows for w, rows in results.items() if not isinstance(rows, QueryRefused)}), notes

    def _tried(self, query: str, at: float) -> Sequence[Row] | QueryRefused:
        try:
            return self._client.instant(query, at)
        except QueryRefused as refused:
            return refused

    # Meaning

    def _understood(self, answers: Answers, notes: Notes) -> FleetMetrics:
        at = answers.at
        engines = of_scope(self.sources, "replica")
        targets: Sequence[Target] = fleet_answers.targets(answers, self._settings)
        self.targets = targets
        table = fleet_answers.replicas(answers, engines, targets, self._settings, notes)
        subjects = Subjects(self._settings, fleet_answers.model_names(self._known_pools(targets, table)))
        models: Sequence[str] = [
            m or subjects.by_pool.get(pool, "") for m, pool in zip(table.models, table.pools, strict=True)
        ]
        seen = self._gateway.look(answers, of_scope(self.sources, "gateway"), subjects, targets, notes)
        if not self._shard.whole:
            elsewhere = replicas_elsewhere(targets, table, models, self._shard)
            self.targets = targets = [target for target in targets if target.replica not in elsewhere]
            table, models = own_rows(table, models, elsewhere)
            seen = own_figures(seen, elsewhere, self._shard)
        engine_arrivals = self._engine_arrivals(table, models, at, targets)
        self.gpus = of_gpus(answers, of_scope(self.sources, "gpu"), table.names, self._settings, notes)
        self._note_vanished(answers, notes)
        self._incomplete |= bool(self._strangers(targets, table))
        expected = {key.model for key in self._pools} | {*models} | {target.model for target in targets} - {""}
        fresh = {m for m, age in zip(models, at - table.sampled_at, strict=True) if age <= self._settings.stale_after_s}
        demand = self._demand(answers, subjects, expected - {""}, engine_arrivals, seen.arrivals, notes)
        return FleetMetrics(
            replicas=self._replica_metrics(table, self.gpus),
            in_flight=seen.in_flight,
            answered=seen.answered,
            failed_answers=seen.failed_answers,
            unreached=seen.unreached,
            demand=demand,
            service=self._service(answers, subjects, fresh | {*seen.arrivals.requests_per_s}),
            gateway_queued=seen.queued,
            node_xids=self.gpus.node_xids,
            gateway_oldest_at=min(seen.sampled_at, default=math.nan),
            gateway_newest_at=max(seen.sampled_at, default=math.nan),
            missing=tuple(notes.told),
        )

    def _known_pools(self, targets: Iterable[Target], table: ReplicaTable) -> list[tuple[str, str]]:
        known = {(key.model, key.pool) for key in (*self._pools, *self._shard.rest.pools)}
        known |= {(target.model, target.pool) for target in targets}
        known |= set(zip(table.models, table.pools, strict=True))
        return [(model, pool) for model, pool in known if model and pool]

    def _engine_arrivals(
        self, table: ReplicaTable, models: Sequence[str], at: float, targets: Sequence[Target]
    ) -> Arrivals:
        columns = table.columns
        cut_short = sum(np.nan_to_num(columns[f"{outcome}_requests_total"]) for outcome in ("failed", "aborted"))
        ended = columns["finished_requests_total"] + cut_short
        inside = columns["running_requests"] + np.nan_to_num(columns["queued_requests"])
        received, none = columns["received_requests_total"], np.full(len(table), np.nan)
        counted = Counted(table.names, models, table.sampled_at, received, none, np.asarray(ended), inside)
        return self._engine_rates.update(counted, at, {target.replica for target in targets}.__contains__)

    def _strangers(self, targets: Iterable[Target], table: ReplicaTable) -> set[str]:
        """Return replicas of our pools that are scraped and of which no name that was looked up is known."""
        ours = {(key.model, key.pool) for key in self._pools}
        return {t.replica for t in targets if t.up and (t.model, t.pool) in ours} - {*table.names}

    def _note_vanished(self, answers: Answers, notes: Notes) -> None:
        """Note what was there when names were looked up and is not now, and have them looked up again soon."""
        gone = []
        for source in self.sources:
            if not answers.of(source, SAMPLED_AT):
                gone.append(f"series:{source.name} (none is left)")
                continue
            for what, rows in answers.rows.items():
                plain = not (what.window_s or what.part or what.signal in RARE)
                if what.source == source.name and plain and not rows:
                    gone.append(f"{what.signal}:{source.name} (gone)")
        silent = [*self._engine_rates.silent, *self._gateway.silent]
        gone += [f"replica:{name} (silent)" for name in silent[:_NAMED]]
        if len(silent) > _NAMED:
            gone.append(f"replica:{len(silent) - _NAMED} more (silent)")
        self._incomplete = bool(gone)
        notes.told += gone

    def _demand(
        self,
        answers: Answers,
        subjects: Subjects,
        expected: Iterable[str],
        of_engines: Arrivals,
        of_gateways: Arrivals,
        notes: Notes,
    ) -> dict[str, Demand]:
        """Return offered load per model: counted at the gateway or else by engines, times mean lengths."""
        rates = {**of_engines.requests_per_s, **of_gateways.requests_per_s}
        prompts: dict[str, float] = {}
        outputs: dict[str, float] = {}
        cached: dict[str, float] = {}
        for source in (*of_scope(self.sources, "replica"), *of_scope(self.sources, "gateway")):
            told = means(answers, source, subjects)
            prompts.update(told.prompt_tokens)
            outputs.update(told.output_tokens)
            cached.update(told.cached_prompt_ratio)
        demand = {}
        for model in sorted({*expected, *rates} - {""}):
            if model not in rates:
                why = of_engines.unknown.get(model) or of_gateways.unknown.get(model)
                notes.told += [f"demand:{model}", *([f"arrivals:{model} ({why})"] if why else [])]
                continue
            before = self._lengths.get(model, (self._settings.prompt_tokens_prior, self._settings.output_tokens_prior))
            prompt, output = prompts.get(model, before[0]), outputs.get(model, before[1])
            self._lengths[model] = (prompt, output)
            rate = rates[model]
            demand[model] = Demand(rate, rate * prompt, rate * output, cached.get(model, 0.0))
        return demand

    def _service(self, answers: Answers, subjects: Subjects, fresh: set[str]) -> dict[str, ServiceLevel]:
        """Return service levels, those of a gateway that measures both latencies before those of engines."""
        levels: dict[str, ServiceLevel] = {}
        for source in self.sources:
            whole = {"ttft_seconds", "tpot_seconds"} <= {*source.matched}
            found = attainment(answers, source, subjects, self._policy.objective_of)
            if source.names.scope == "gateway" and not whole:
                found = {model: level for model, level in found.items() if model not in levels}
            levels = {**levels, **found} if source.names.scope == "gateway" else {**found, **levels}
        return {model: level for model, level in levels.items() if model in fresh}

    def _replica_metrics(self, table: ReplicaTable, gpus: GpuFigures) -> dict[str, ReplicaMetrics]:
        columns = table.columns
        sums, counts = columns[column("tpot_seconds", "sum")], columns[column("tpot_seconds", "count")]
        tpot = self._tpot.update(table.names, table.sampled_at, sums, counts)
        figures = zip(
            table.names,
            table.sampled_at.tolist(),
            columns["running_requests"].tolist(),
            columns["queued_requests"].tolist(),
            columns["kv_cache_ratio"].tolist(),
            columns["steps_total"].tolist(),
            columns["prompt_tokens_total"].tolist(),
            columns["output_tokens_total"].tolist(),
            columns["finished_requests_total"].tolist(),
            columns["failed_requests_total"].tolist(),
            columns[column("ttft_seconds", "p95")].tolist(),
            tpot.tolist(),
            columns["preemptions_total"].tolist(),
            columns["aborted_requests_total"].tolist(),
            *(gpus.columns[signal].tolist() for signal in GPU_SIGNALS),
            strict=True,
        )
        return {name: ReplicaMetrics(*row) for name, *row in figures}
