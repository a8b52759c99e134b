"""Does a cluster have what Foresail needs: rights, kinds, pools that can be acted on, routes, a lease? Only asks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from numpy.random import default_rng

from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.installation import Right
from controller.adapters.kube.kinds import AUTOSCALERS, INFERENCE_POOLS, KINDS, ROUTES, Resource
from controller.adapters.kube.neighbours import (
    Neighbourhood,
    autoscalers_of,
    budgets_of,
    lease_of,
    neighbourhoods,
    route_trouble,
    workloads_of,
)
from controller.adapters.kube.ownership import Autoscaler
from controller.adapters.kube.permissions import Feature
from controller.adapters.kube.policy_schema import GROUP, KIND, PLURAL, VERSION
from controller.adapters.kube.questions import ApiRefused, Unreached
from controller.adapters.kube.rights import missing_rights, server_facts, unserved, user_of
from controller.adapters.kube.settings import KubernetesSettings, LeasePlace
from controller.adapters.system_clock import SystemClock
from controller.doctor_findings import (
    ClusterFindings,
    NoteFinding,
    Problem,
    RouteFinding,
    WorkloadFinding,
    compare_pools,
    shown,
)
from controller.doctor_rights import finding_of, wanted_rights
from controller.errors import ObservationError
from controller.modes import ActionClass, ModeSettings
from controller.shard_settings import WHOLE, ShardSettings
from policies.decide import PolicySettings
from policies.fleet import PoolKey, PoolState
from policies.replica import Phase

_T = TypeVar("_T")
_NAMED = 5
_MOST_NO_POOLS = 200
_SAME_CLOCK_S = 5.0

NO_ROUTE = Problem("modes.traffic lets weights be set, and no route is named", "name one under platform.routes")


@dataclass(slots=True)
class Examined:
    """What was found in a cluster: for people, what is wrong, and the pools; None where they are not known."""

    cluster: ClusterFindings
    problems: list[Problem] = field(default_factory=list)
    pools: tuple[PoolState, ...] | None = None


def examine_cluster(
    platform: KubernetesSettings,
    modes: ModeSettings,
    policy: PolicySettings,
    clock: SystemClock,
    *,
    alone: bool = True,
    shard: ShardSettings = WHOLE,
) -> Examined:
    """Return what there is in the cluster and what is missing; never raises for what is wrong with it.

    Of the workloads only those of ``shard`` are told, and what else is there is no matter of its. One of several
    clusters, not ``alone``, knows neither which pools there should be nor all that its routes lead to: see
    ``doctor_members``.
    """
    examined = Examined(ClusterFindings(server=""))
    try:
        view = KubernetesView(platform, clock.elapsed, default_rng(0), shard=shard)
    except ObservationError as error:
        examined.problems.append(_problem(error))
        return examined
    try:
        examination = _Examination(platform, modes, policy, clock, view, examined, shard)
        examination.run()
        if alone:
            examination.routes(None if examined.pools is None else [pool.key for pool in examined.pools])
    except ObservationError as error:
        examined.problems.append(_problem(error))
    finally:
        view.close()
    if alone and examined.pools is not None:
        there, prefix = {pool.key for pool in examined.pools}, platform.prefix
        examined.problems += compare_pools({PoolKey.parse(name) for name in policy.pools}, there, prefix)
        if modes.may_act(ActionClass.TRAFFIC) and not platform.routes:
            examined.problems.append(NO_ROUTE)
    return examined


def examine_routes(
    platform: KubernetesSettings,
    modes: ModeSettings,
    policy: PolicySettings,
    clock: SystemClock,
    pools: Sequence[PoolKey] | None,
    examined: Examined,
) -> None:
    """Add to ``examined``, a member that was reached, what is wrong with its routes to all ``pools`` there are."""
    view = KubernetesView(platform, clock.elapsed, default_rng(0))
    try:
        _Examination(platform, modes, policy, clock, view, examined).routes(pools)
    except ObservationError as error:
        examined.problems.append(_problem(error))
    finally:
        view.close()


@dataclass(frozen=True, slots=True)
class _Examination:
    platform: KubernetesSettings
    modes: ModeSettings
    policy: PolicySettings
    clock: SystemClock
    view: KubernetesView
    examined: Examined
    shard: ShardSettings = WHOLE

    def run(self) -> None:
        """Go from what everything else needs to what stands alone; raises ObservationError where nothing answers."""
        self._server()
        blind = self._rights() | self._kinds()
        if blind:
            what = f"the pools were not looked at: {', '.join(sorted(blind))} cannot be read"
            self._say(what, "add the rights, or install the kinds, that are missing; then ask again", fatal=False)
        else:
            self._told(self._pools, None)
        lease = self.platform.lease
        if lease is not None:
            both = lease if self.shard.whole else lease.of_shard(self.shard), lease
            self.found.lease = "; ".join([self._lease(one) for one in dict.fromkeys(both)])

    def _lease(self, lease: LeasePlace) -> str:
        told = self._told(lambda: lease_of(self.api, lease.namespace, lease.name), "not known")
        return f"{lease.namespace}/{lease.name}: {shown(told)}"

    @property
    def api(self) -> KubernetesApi:
        return self.view.api

    @property
    def found(self) -> ClusterFindings:
        return self.examined.cluster

    def _server(self) -> None:
        self.found.server = self.api.server
        if not self.api.is_verified:
            what = "the certificate of the API server is not checked: whoever is in between may read and answer for it"
            self._say(
                what, "name its certificate-authority in the kubeconfig, without insecure-skip-tls-verify", fatal=False
            )
        facts = server_facts(self.api, self.clock.now)
        self.found.version, ahead_s = shown(facts.version), facts.clock_ahead_s
        if not math.isnan(ahead_s):
            self.found.clock_ahead_s = ahead_s
        if abs(ahead_s) > _SAME_CLOCK_S:
            what = f"the clock of the API server is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
            self._say(what, "keep clocks in step (NTP): lead times and ages are wrong by as much", fatal=False)
        self.found.user = shown(user_of(self.api))

    def _rights(self) -> set[str]:
        """Find the rights that are missing; return what cannot be watched for want of them."""
        may_avoid = self.policy.healing.may_avoid_nodes
        self.found.features, wanted = wanted_rights(
            self.platform, self.modes, may_avoid_nodes=may_avoid, shards=self.shard.of
        )
        missing = missing_rights(self.api, list(wanted))
        self.found.rights_asked = len(wanted)
        self.found.missing_rights = [finding_of(right, wanted[right]) for right in missing]
        for needed, remedy in (
            (True, "add the rules for each Role, or switch the feature on in the chart"),
            (False, "decisions can be made without; add them to have it all"),
        ):
            count = sum(wanted[right] is needed for right in missing)
            if count:
                what = f"{count} of {len(wanted)} rights {'is' if count == 1 else 'are'} missing"
                self._say(what if needed else f"{what} that would be of use", remedy, fatal=needed)
        # Who else scales is told beside; pools are told without.
        others = AUTOSCALERS.values()
        watched = {(one.group, one.plural) for one in self.view.reflectors if one not in others}
        return {right.title for right in missing if _is_watched(right, watched)}

    def _kinds(self) -> set[str]:
        """Find the kinds that the cluster has not got; return those that would be watched."""
        platform = self.platform
        kinds = [KINDS[name] for name in platform.kinds]
        kinds += [Resource(one.group, one.version, one.plural, one.kind) for one in platform.custom_kinds]
        kinds += [Resource(one.group, one.version, f"{one.plural}/scale", one.kind) for one in platform.custom_kinds]
        kinds += [INFERENCE_POOLS] if platform.by_inference_pools else []
        kinds += [AUTOSCALERS[kind] for kind in platform.autoscalers]
        kinds += [ROUTES[kind] for kind in sorted({route.kind for route in platform.routes})]
        kinds += [Resource(GROUP, VERSION, PLURAL, KIND)] if platform.policies else []
        missing: list[Resource] = self._told(lambda: unserved(self.api, kinds), [])
        for kind in missing:
            self.found.missing_kinds.append(f"{kind.title}/{kind.version}")
            what = f"the cluster has no {kind.kind} ({kind.title}, version {kind.version})"
            remedy = f"install its CustomResourceDefinition, or leave {kind.kind} out of the settings"
            if "/" in kind.plural:
                what = f"{kind.kind} cannot be scaled: the cluster has no {kind.title}, version {kind.version}"
                remedy = "give its CustomResourceDefinition a scale subresource, or leave it out of custom_kinds"
            # An autoscaler that is not installed scales nothing.
            self._say(what, remedy, fatal=kind not in AUTOSCALERS.values())
        return {kind.title for kind in missing if kind in self.view.reflectors and kind not in AUTOSCALERS.values()}

    def _pools(self) -> None:
        self.view.start()
        self.examined.pools = self.view.pools()
        autoscalers = [one for kind in self.platform.autoscalers for one in self._autoscalers(kind)]
        budgets = self._told(lambda: list(budgets_of(self.api, self.platform)), None)
        around = neighbourhoods(self.view, self.platform, self.clock.now(), autoscalers, budgets or [])
        for one in around:
            self._pool(one, budgets_known=budgets is not None)
        self._no_pools()

    def _autoscalers(self, kind: str) -> list[Autoscaler]:
        if f"{AUTOSCALERS[kind].title}/{AUTOSCALERS[kind].version}" in self.found.missing_kinds:
            return []
        return self._told(lambda: list(autoscalers_of(self.api, self.platform, kind)), [])

    def _pool(self, one: Neighbourhood, *, budgets_known: bool) -> None:
        title, owner = one.workload.title, one.owner
        ready = sum(replica.phase is Phase.READY for replica in one.state.replicas)
        owned = owner.title if owner else ""
        self.found.workloads.append(
            WorkloadFinding(
                shown(title), shown(str(one.state.key)), one.state.desired, ready, shown(owned), one.budgets,
                one.unlabelled,
            )
        )  # fmt: skip
        if owner is not None:
            self._say(f"{title}: {owned} sets its number of replicas, so it is left alone", owner.remedy, fatal=False)
        if one.recreator is not None:
            remedy = "set its updateMode to Off or Initial: engines take minutes to start"
            self._say(f"{title}: {one.recreator.title} ends its pods to resize them", remedy, fatal=False)
        if one.unlabelled:
            label = self.platform.serving_label
            what = f"{title}: {_few(one.unlabelled)} cannot be cordoned, without the label {label}"
            remedy = f'put {label}: "true" into its pod template and into the selector of its Service or InferencePool'
            self._say(what, remedy, fatal=False)
        if budgets_known and not one.budgets:
            what = f"{title}: no PodDisruptionBudget, so drained nodes may take all its pods at once"
            self._say(what, "give it one with maxUnavailable: 1", fatal=False)
        if len(one.budgets) > 1:
            what = f"{title}: {_few(one.budgets)} all hold for its pods, and none of them can then be evicted"
            self._say(what, "leave one PodDisruptionBudget per pod", fatal=False)

    def _no_pools(self) -> None:
        """Say of every workload that is none why it is not, and of pools what else there is to say."""
        workloads, places = workloads_of(self.view, self.platform)
        notes = self.view.notes()
        why = {note.subject: note.why for note in notes}
        pools = {one.title for one in workloads if one.uid in places}
        others = [one.title for one in workloads if one.uid not in places]
        otherwise = _unmarked(self.platform)
        self.found.no_pools = [
            NoteFinding(shown(title), shown(why.get(title, otherwise))) for title in others[:_MOST_NO_POOLS]
        ]
        self.found.notes = [NoteFinding(shown(n.subject), shown(n.why)) for n in notes if n.subject not in others]
        for note in notes:
            if note.subject not in pools:
                remedy = "it is no pool, or not a whole one, until that is so"
                self._say(f"{note.subject}: {note.why}", remedy, fatal=False)

    def routes(self, pools: Sequence[PoolKey] | None) -> None:
        """Find what is wrong with routes to ``pools``, None where these are not known; raises ObservationError."""
        acts, platform = self.modes.may_act(ActionClass.TRAFFIC), self.platform
        for route in platform.routes:
            title = f"{route.kind} {route.namespace}/{route.name}"
            if ROUTES[route.kind].title in {kind.partition("/")[0] for kind in self.found.missing_kinds}:
                trouble = "its kind is not installed"
            else:
                trouble = self._told(partial(route_trouble, self.api, route, pools or ()), "not known")
            self.found.routes.append(RouteFinding(title, shown(route.model), shown(trouble)))
            if trouble and trouble != "not known":
                self._say(f"{title}: {trouble}", "mend the route, or what platform.routes says of it", fatal=acts)

    def _told(self, ask: Callable[[], _T], otherwise: _T) -> _T:
        """Return an answer, or ``otherwise`` after saying what went wrong; raises Unreached.

        That a right is missing has been said already.
        """
        try:
            return ask()
        except Unreached:
            raise
        except ObservationError as error:
            if not (isinstance(error, ApiRefused) and error.status == 403 and self.found.missing_rights):
                self.examined.problems.append(_problem(error, fatal=False))
            return otherwise

    def _say(self, what: str, remedy: str, *, fatal: bool = True) -> None:
        self.examined.problems.append(Problem(shown(what), shown(remedy), fatal))


def _problem(error: ObservationError, *, fatal: bool = True) -> Problem:
    where = f"{shown(error.where)}: " if error.where else ""
    return Problem(f"{where}{shown(error.what)}", shown(error.remedy), fatal)


def _is_watched(right: Right, watched: Iterable[tuple[str, str]]) -> bool:
    reads = right.feature in (Feature.READ, Feature.NODES) and right.verb in ("list", "watch")
    return reads and (right.group, right.resource) in watched


def _unmarked(platform: KubernetesSettings) -> str:
    """Return why a workload that nothing is said of is no pool."""
    marks = [f"without the label {platform.prefix}/model"] if platform.by_labels else []
    marks += ["selected by no InferencePool"] if platform.by_inference_pools else []
    return ", ".join([*marks, "not under platform.pools"])


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
