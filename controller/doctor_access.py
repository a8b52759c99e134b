"""Does a cluster know us, let us do what the settings want, and serve the kinds that they name?"""

from __future__ import annotations

import math
from collections.abc import Iterable

from controller.adapters.kube.installation import Right
from controller.adapters.kube.kinds import AUTOSCALERS, INFERENCE_POOLS, KINDS, ROUTES, Resource
from controller.adapters.kube.permissions import Feature
from controller.adapters.kube.policy_schema import GROUP, KIND, PLURAL, VERSION
from controller.adapters.kube.rights import missing_rights, server_facts, unserved, user_of
from controller.doctor_examination import Examination
from controller.doctor_findings import shown
from controller.doctor_rights import finding_of, wanted_rights

_SAME_CLOCK_S = 5.0


def ask_server(of: Examination) -> None:
    """Find which server it is, whether its clock is ours, and who we are there."""
    of.found.server = of.api.server
    if not of.api.is_verified:
        what = "the certificate of the API server is not checked: whoever is in between may answer in its place"
        of.say(what, "name its certificate-authority in the kubeconfig, and no insecure-skip-tls-verify", fatal=False)
    facts = server_facts(of.api, of.clock.now)
    of.found.version, ahead_s = shown(facts.version), facts.clock_ahead_s
    if not math.isnan(ahead_s):
        of.found.clock_ahead_s = ahead_s
    if abs(ahead_s) > _SAME_CLOCK_S:
        what = f"the clock of the API server is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
        of.say(what, "keep clocks in step (NTP): lead times and ages are wrong by as much", fatal=False)
    of.found.user = shown(user_of(of.api))


def ask_rights(of: Examination) -> set[str]:
    """Find the rights that are missing; return what cannot be watched for want of them."""
    may_avoid = of.policy.healing.may_avoid_nodes
    of.found.features, wanted = wanted_rights(of.platform, of.modes, may_avoid_nodes=may_avoid, shards=of.shard.of)
    missing = missing_rights(of.api, list(wanted))
    of.found.rights_asked = len(wanted)
    of.found.missing_rights = [finding_of(right, wanted[right]) for right in missing]
    for needed, remedy in (
        (True, "add the rules for each Role, or switch the feature on in the chart"),
        (False, "decisions can be made without; add them to have it all"),
    ):
        count = sum(wanted[right] is needed for right in missing)
        if count:
            what = f"{count} of {len(wanted)} rights {'is' if count == 1 else 'are'} missing"
            of.say(what if needed else f"{what} that would be of use", remedy, fatal=needed)
    # Who else scales is told beside; pools are told without.
    others = AUTOSCALERS.values()
    watched = {(one.group, one.plural) for one in of.view.reflectors if one not in others}
    return {right.title for right in missing if _is_watched(right, watched)}


def ask_kinds(of: Examination) -> set[str]:
    """Find the kinds that the cluster has not got; return those that would be watched."""
    platform = of.platform
    kinds = [KINDS[name] for name in platform.kinds]
    kinds += [Resource(one.group, one.version, one.plural, one.kind) for one in platform.custom_kinds]
    kinds += [Resource(one.group, one.version, f"{one.plural}/scale", one.kind) for one in platform.custom_kinds]
    kinds += [INFERENCE_POOLS] if platform.by_inference_pools else []
    kinds += [AUTOSCALERS[kind] for kind in platform.autoscalers]
    kinds += [ROUTES[kind] for kind in sorted({route.kind for route in platform.routes})]
    kinds += [Resource(GROUP, VERSION, PLURAL, KIND)] if platform.policies else []
    missing: list[Resource] = of.told(lambda: unserved(of.api, kinds), [])
    for kind in missing:
        of.found.missing_kinds.append(f"{kind.title}/{kind.version}")
        what = f"the cluster has no {kind.kind} ({kind.title}, version {kind.version})"
        remedy = f"install its CustomResourceDefinition, or leave {kind.kind} out of the settings"
        if "/" in kind.plural:
            what = f"{kind.kind} cannot be scaled: the cluster has no {kind.title}, version {kind.version}"
            remedy = "give its CustomResourceDefinition a scale subresource, or leave it out of custom_kinds"
        # An autoscaler that is not installed scales nothing.
        of.say(what, remedy, fatal=kind not in AUTOSCALERS.values())
    return {kind.title for kind in missing if kind in of.view.reflectors and kind not in AUTOSCALERS.values()}


def _is_watched(right: Right, watched: Iterable[tuple[str, str]]) -> bool:
    reads = right.feature in (Feature.READ, Feature.NODES) and right.verb in ("list", "watch")
    return reads and (right.group, right.resource) in watched
