"""How do the parts come together? From settings to a control loop with everything it reaches, one function per part.

This is the only place that knows which adapter stands behind which port.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from controller.actuation import Actuator
from controller.adapters.approval_folder import ApprovalFolder
from controller.adapters.audit_settings import DEFAULT_AUDIT, AuditSettings, sqlite_file
from controller.adapters.http_canaries import HttpCanaries
from controller.adapters.log_notifier import LogNotifier
from controller.adapters.prometheus import PrometheusSource
from controller.adapters.prometheus_history import HistoryReader, at_step, read_history
from controller.adapters.prometheus_http import PrometheusHttp
from controller.adapters.sql_audit import SqlAudit
from controller.adapters.system_clock import SystemClock
from controller.approvals import Approvals
from controller.approver_keys import approver_keys
from controller.cluster_figures import ClusterFigures, no_figures
from controller.errors import AuditError, BadInput, ObservationError
from controller.fleet_series import Recommended
from controller.forecasts import Horizon, LoadForecasts
from controller.kept_platform import KeptPlatform
from controller.leadership import Candidate
from controller.loop import ControlLoop
from controller.plan_expiry import unless_expired
from controller.platform_settings import AnyPlatform, cluster_of_lease, engine_token_file, routes_of
from controller.platforms import nothing_elsewhere, nothing_waits
from controller.ports import (
    AuditLog,
    Canaries,
    Clock,
    Cluster,
    MetricSource,
    Notifier,
    Router,
    Sources,
    TickRecord,
    Witness,
)
from controller.route_warnings import RouteWarnings
from controller.settings import Settings
from controller.shard_budget import ShardPolicy
from controller.shard_settings import Spent
from controller.write_gate import WriteGate
from forecasting.forecaster import FallbackForecaster
from forecasting.series import LoadSeries
from policies.decide import Foresail
from policies.fleet import PoolKey
from policies.memory import PolicyMemory

if TYPE_CHECKING:
    from controller.adapters.keda_scaler import KedaScaler

History: TypeAlias = Callable[[float], Mapping[str, LoadSeries]]
"""Returns the load of each model recorded until an instant, in steps of a tick; raises ObservationError."""


def no_history(_: float) -> Mapping[str, LoadSeries]:
    """Return nothing: there is no store to ask."""
    return {}


@dataclass(frozen=True, slots=True)
class World:
    """What a daemon looks at and acts on, by ports. ``close`` gives up the connections behind them.

    ``spent`` tells what is asked for elsewhere than in the pools of ``cluster``, by shard. ``enter`` is called once
    before it is used, between two ticks of which the one before may have used another world. ``figures`` tell how a
    platform that is watched does, and may be asked for by any thread. ``flush`` sends, for at most so many seconds,
    what ``witness`` still has to tell; no tick follows.
    """

    metrics: MetricSource
    cluster: Cluster
    router: Router
    notifier: Notifier
    history: History = no_history
    close: Callable[[], None] = field(default=lambda: None)
    canaries: Canaries | None = None
    witness: Witness | None = None
    spent: Callable[[], Mapping[int, Spent]] = nothing_elsewhere
    enter: Callable[[], None] = field(default=lambda: None)
    figures: Callable[[], ClusterFigures] = no_figures
    flush: Callable[[float], None] = nothing_waits


@dataclass(frozen=True, slots=True)
class Consent:
    """Who is asked before anything is written: what stops all of it, and people where a mode wants that."""

    killed: Callable[[], bool | str]
    approvals: Approvals | None = None


WorldOf: TypeAlias = Callable[[Settings], World]


def named_platform(settings: Settings) -> AnyPlatform:
    """Return the platform that ``settings`` name; raises BadInput where they name none."""
    if settings.platform is None:
        remedy = "write what to act on there: docs/foresail.yaml shows a platform of either kind"
        raise BadInput("the settings say nothing under platform", "platform", remedy)
    return settings.platform


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Several witnesses of the same ticks."""

    all: tuple[Witness, ...]

    def saw(self, record: TickRecord) -> None:
        """Tell each of them."""
        for witness in self.all:
            witness.saw(record)


class Worlds:
    """Opens the world that settings name, again and again; what of it need not be opened anew is shared."""

    def __init__(self, gate: WriteGate, beside: Witness | None = None) -> None:
        """Every write of a platform that others may write to asks ``gate``; ``beside`` is told of ticks, too.

        An act may take several writes, and long: the gate ends it between two of them.
        """
        self._beside, self._routes = beside, RouteWarnings()
        guard = unless_expired(gate.why_not, SystemClock().now)
        self._platforms = KeptPlatform(guard, lambda: bool(gate.stopped()))

    def __call__(self, settings: Settings) -> World:
        """Return the world.

        Raises:
            BadInput: If they name no platform, a certificate is not there, or it cannot be told how a cluster is
                reached.
        """
        named, elapsed, shard = named_platform(settings), SystemClock().elapsed, settings.daemon.shard
        with ExitStack() as opened:
            try:
                store = PrometheusHttp(settings.prometheus, elapsed)
                metrics = PrometheusSource(store, settings.prometheus, settings.policy, elapsed, shard)
                opened.callback(metrics.close)
                platform = self._platforms.under(named, shard)
                opened.callback(platform.close)
            except ObservationError as error:
                raise BadInput(error.what, error.where, error.remedy) from None
            canaries = HttpCanaries(engine_token_file(named), elapsed)
            ports = metrics, platform.cluster, platform.router, LogNotifier()

            def enter() -> None:
                platform.adapt_to(named)
                self._routes.routes = routes_of(named)

            all_of_them = (platform.witness, self._beside, self._routes)
            witnesses = Witnesses(tuple(witness for witness in all_of_them if witness is not None))
            load, close = recorded_load(store, settings), opened.pop_all().close
            return World(
                *ports, load, close, canaries, witnesses, platform.spent, enter, platform.figures, platform.flush
            )


def recorded_load(store: PrometheusHttp, settings: Settings) -> History:
    """Return what reads the load of our pools' models from the store, as far back as forecasters are shown.

    It is read in the steps of forecasts: a tick's worth of detail would be four times the answer, for nothing.
    """
    shard = settings.daemon.shard
    pools = [*map(PoolKey.parse, settings.policy.pools), *shard.rest.pools]
    step_s, kept_s = settings.forecast.step_s, settings.forecast.kept_s

    def read(until: float) -> Mapping[str, LoadSeries]:
        reader = HistoryReader(store, settings.prometheus, pools, until, kept_s, step_s)
        loads = {model: load for model, load in read_history(reader).items() if shard.has(model)}
        return at_step(loads, settings.policy.tick_s)

    return read


def audit_log(settings: AuditSettings) -> SqlAudit:
    """Open the audit log; the folder of the default one is made.

    Raises:
        AuditError: If it cannot be opened or written.
    """
    path = sqlite_file(settings.url)
    if path is not None and settings.url == DEFAULT_AUDIT:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AuditError(
                f"the folder of the audit log cannot be made: {error.strerror}", str(path.parent), "set audit.url"
            ) from None
    return SqlAudit.open(settings.url, durable=True)


def approvals_of(settings: Settings, clock: Clock) -> Approvals | None:
    """Return what asks humans; None where no class of action is in mode ``approve``.

    Raises:
        BadInput: If the folder of approvals or the key of an approver cannot be used.
    """
    if not any(settings.modes.asking()):
        return None
    keys = approver_keys(settings.approvals.approvers)
    return Approvals(settings.approvals, keys, ApprovalFolder.open(settings.approvals.folder), clock.now)


def control_loop(
    settings: Settings,
    world: World,
    audit: AuditLog,
    clock: Clock,
    consent: Consent,
    chain: FallbackForecaster,
    before: Mapping[str, LoadSeries] | None = None,
    memory: PolicyMemory | None = None,
) -> ControlLoop:
    """Return the loop: the object that the simulator runs, over the ports of ``world``."""
    policy, shard = settings.policy, settings.daemon.shard
    actuator = Actuator(
        clock,
        world.cluster,
        world.router,
        world.notifier,
        settings.modes,
        consent.killed,
        consent.approvals,
        world.canaries,
    )
    loop = ControlLoop(
        Sources(clock, world.metrics, world.cluster, world.router, world.canaries),
        audit,
        actuator,
        LoadForecasts(chain, policy.tick_s, settings.forecast, before),
        Horizon(policy.lead_time, policy.tick_s),
        Foresail(policy) if shard.whole else ShardPolicy(policy, shard, world.spent),
        memory,
        policy.healing.blind_page_after_s,
    )
    loop.witness = world.witness
    return loop


def write_gate(settings: Settings, leadership: Candidate | None = None) -> WriteGate:
    """Return what every write asks: the kill switch of ``settings``, and whether this process leads, if others may."""
    switch = settings.daemon.kill_switch
    return WriteGate(switch) if leadership is None else WriteGate(switch, leadership.why_not)


def leadership_of(settings: Settings) -> Candidate | None:
    """Return what stands for the lease that ``settings`` name; None where they name none, for only one process runs.

    One shard of several stands for a lease of its own, and for that of the fleet together with the others.

    Raises:
        BadInput: If it cannot be told how the cluster is reached that the lease is in.
    """
    from controller.adapters.kube.lease import candidate

    place = cluster_of_lease(settings.platform)
    if place is None:
        return None
    clock = SystemClock()
    try:
        return candidate(place, clock.now, clock.lasting, settings.daemon.shard)
    except ObservationError as error:
        raise BadInput(error.what, error.where, error.remedy) from None


def keda_scaler(
    settings: Settings, recommended: Callable[[], Recommended], leads: Callable[[], bool]
) -> KedaScaler | None:
    """Return what answers KEDA by gRPC, once it is started; None where the settings name no address for it.

    Raises:
        BadInput: If the extra for it is not installed, or its address cannot be bound.
    """
    if settings.daemon.keda is None:
        return None
    try:
        from controller.adapters.keda_scaler import KedaScaler
    except ModuleNotFoundError as error:
        what = f"KEDA is answered by gRPC, and {error.name} is not installed"
        raise BadInput(what, "daemon.keda", "pip install 'foresail[keda]'") from None
    return KedaScaler(settings.daemon.keda, recommended, leads)
