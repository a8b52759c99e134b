"""Which workloads of a cluster are pools, what keeps Foresail from acting on them, and why are the others none?"""

from __future__ import annotations

from controller.adapters.kube.kinds import AUTOSCALERS
from controller.adapters.kube.neighbours import (
    Neighbourhood,
    autoscalers_of,
    budgets_of,
    neighbourhoods,
    workloads_of,
)
from controller.adapters.kube.ownership import Autoscaler
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.kube.unknown_pools import few
from controller.doctor_examination import Examination
from controller.doctor_findings import NoteFinding, WorkloadFinding, shown
from policies.replica import Phase

_MOST_NO_POOLS = 200


def look_at_pools(of: Examination) -> None:
    """Find the pools, what else has a say about each, and why other workloads are none."""
    of.view.start()
    of.examined.pools = of.view.pools()
    autoscalers = [one for kind in of.platform.autoscalers for one in _autoscalers(of, kind)]
    budgets = of.told(lambda: list(budgets_of(of.api, of.platform)), None)
    around = neighbourhoods(of.view, of.platform, of.clock.now(), autoscalers, budgets or [])
    for one in around:
        _pool(of, one, budgets_known=budgets is not None)
    _no_pools(of)


def _autoscalers(of: Examination, kind: str) -> list[Autoscaler]:
    if f"{AUTOSCALERS[kind].title}/{AUTOSCALERS[kind].version}" in of.found.missing_kinds:
        return []
    return of.told(lambda: list(autoscalers_of(of.api, of.platform, kind)), [])


def _pool(of: Examination, one: Neighbourhood, *, budgets_known: bool) -> None:
    title, owner = one.workload.title, one.owner
    ready = sum(replica.phase is Phase.READY for replica in one.state.replicas)
    owned = owner.title if owner else ""
    of.found.workloads.append(
        WorkloadFinding(
            shown(title), shown(str(one.state.key)), one.state.desired, ready, shown(owned), one.budgets,
            one.unlabelled,
        )
    )  # fmt: skip
    if owner is not None:
        of.say(f"{title}: {owned} sets its number of replicas, so it is left alone", owner.remedy, fatal=False)
    if one.recreator is not None:
        remedy = "set its updateMode to Off or Initial: engines take minutes to start"
        of.say(f"{title}: {one.recreator.title} ends its pods to resize them", remedy, fatal=False)
    if one.unlabelled:
        label = of.platform.serving_label
        what = f"{title}: {few(one.unlabelled)} cannot be cordoned, without the label {label}"
        remedy = f'put {label}: "true" into its pod template and into the selector of its Service or InferencePool'
        of.say(what, remedy, fatal=False)
    if budgets_known and not one.budgets:
        what = f"{title}: no PodDisruptionBudget, so drained nodes may take all its pods at once"
        of.say(what, "give it one with maxUnavailable: 1", fatal=False)
    if len(one.budgets) > 1:
        what = f"{title}: {few(one.budgets)} all hold for its pods, and none of them can then be evicted"
        of.say(what, "leave one PodDisruptionBudget per pod", fatal=False)


def _no_pools(of: Examination) -> None:
    """Say of every workload that is none why it is not, and of pools what else there is to say."""
    workloads, places = workloads_of(of.view, of.platform)
    notes = of.view.notes()
    why = {note.subject: note.why for note in notes}
    pools = {one.title for one in workloads if one.uid in places}
    others = [one.title for one in workloads if one.uid not in places]
    otherwise = _unmarked(of.platform)
    of.found.no_pools = [
        NoteFinding(shown(title), shown(why.get(title, otherwise))) for title in others[:_MOST_NO_POOLS]
    ]
    of.found.notes = [NoteFinding(shown(n.subject), shown(n.why)) for n in notes if n.subject not in others]
    for note in notes:
        if note.subject not in pools:
            remedy = "it is no pool, or not a whole one, until that is so"
            of.say(f"{note.subject}: {note.why}", remedy, fatal=False)


def _unmarked(platform: KubernetesSettings) -> str:
    """Return why a workload that nothing is said of is no pool."""
    marks = [f"without the label {platform.prefix}/model"] if platform.by_labels else []
    marks += ["selected by no InferencePool"] if platform.by_inference_pools else []
    return ", ".join([*marks, "not under platform.pools"])
