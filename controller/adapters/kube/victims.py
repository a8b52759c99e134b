"""Which pods go when a workload is scaled down, and what has to be written first so that it is those?

A ReplicaSet gives up pods that are on no node, pending or not ready before any that is ready, and among equals the one
of the lowest deletion cost. Whoever names pods by ordinal gives up the highest ordinals, whatever anybody says.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from controller.adapters.kube.pods import Pod

FIRST_TO_GO = "-2000000000"
"""The deletion cost of what we want gone: a number that nobody else would think of marks it as ours."""


def standing(pods: Sequence[Pod]) -> tuple[Pod, ...]:
    """Return the pods that count as replicas: not those that are on their way out, or have ended."""
    return tuple([pod for pod in pods if math.isnan(pod.leaving_at) and not pod.over])


def victims(pods: Sequence[Pod], replicas: int, retire_first: Sequence[str], serving_label: str) -> tuple[Pod, ...]:
    """Return the pods of a ReplicaSet that are to go, the first first, so that ``replicas`` are left.

    Those that it gives up in any case come first; then what ``retire_first`` names, in its order; then what is out of
    traffic; then the youngest, whose caches hold least.
    """
    named = {name: place for place, name in enumerate(retire_first)}

    def turn(pod: Pod) -> tuple[object, ...]:
        cordoned = pod.labels.get(serving_label) == "false"
        begun = any(container.exits or not math.isnan(container.running_at) for container in pod.containers)
        place = named.get(pod.name, len(named))
        return bool(pod.node), begun, pod.ready, place, not cordoned, -pod.created_at, pod.name

    there = standing(pods)
    return tuple(sorted(there, key=turn)[: max(0, len(there) - replicas)])


def costs(
    pods: Sequence[Pod], going: Collection[Pod], retire_first: Collection[str], serving_label: str
) -> Mapping[str, str | None]:
    """Return the deletion costs that have to be written, by pod; None takes one of ours away.

    Of what goes, only what was chosen for a reason is marked: among the others the ReplicaSet may choose.
    """
    chosen = {pod.name for pod in going if pod.name in set(retire_first) or pod.labels.get(serving_label) == "false"}
    marked = {pod.name for pod in standing(pods) if pod.deletion_cost == FIRST_TO_GO}
    return {**dict.fromkeys(sorted(marked - chosen)), **dict.fromkeys(sorted(chosen - marked), FIRST_TO_GO)}


def ordinal(name: str) -> int | None:
    """Return the number that ends the name of a pod.

    >>> ordinal("llama-12"), ordinal("llama")
    (12, None)
    """
    number = name.rpartition("-")[2]
    return int(number) if number.isascii() and number.isdigit() and number != name else None


def out_of_turn(names: Collection[str], replicas: int, first: int, retire_first: Sequence[str]) -> tuple[str, ...]:
    """Return which of ``retire_first`` would stay although others go, where pods are named by ordinal from ``first``.

    Args:
        names: Replicas that are there.
        replicas: How many are to be left.
        first: The lowest ordinal.
        retire_first: Replicas that are to go before others; those that are not there do no harm.
    """
    there = {name: number for name in names if (number := ordinal(name)) is not None}
    going = {name for name, number in there.items() if number >= first + replicas}
    wanted = [name for name in dict.fromkeys(retire_first) if name in there][: len(going)]
    return tuple([name for name in wanted if name not in going])
