"""Does the Deployment controller take a recorded template back, and is a rollout held and let go by who holds it?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.adapters.kube.changes import JSON_PATCH, MERGE_PATCH
from controller.adapters.kube.json_patches import if_unchanged
from controller.adapters.kube.kinds import DEPLOYMENTS, REPLICA_SETS
from controller.adapters.kube.questions import ApiRefused
from controller.errors import ActuationError, StalePlan
from tests.builders_acting import Acting, acting_on, key_of
from tests.builders_any_cluster import IMAGE, Hands, Json, Place, template

WORSE, WORST = "registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.8"
BROKEN = "registry.k8s.io/pause:3.7"
EDITOR = "kubectl-edit"
SETS = replace(REPLICA_SETS, metadata_only=False)


def roll_out(hands: Hands, name: str, image: str) -> None:
    """Change the template as somebody does who edits it."""
    change = {"op": "replace", "path": "/spec/template", "value": template(name, image)}
    hands.patch(DEPLOYMENTS, name, [change], JSON_PATCH, by=EDITOR)


def image_of(thing: Json) -> str:
    spec = thing["spec"]
    return str(spec.get("template", {}).get("spec", spec)["containers"][0]["image"])


def rolled_out(foresail: Acting, hands: Hands, name: str, image: str, replicas: int = 2) -> str:
    """Roll an image out, and return the revision that this is."""
    roll_out(hands, name, image)
    hands.until(lambda: {image_of(pod) for pod in hands.pods(name)} == {image})
    return foresail.at_rest(name, replicas).revision


def test_it_goes_back_to_the_recorded_revision_and_not_to_the_one_before(foresail: Acting, hands: Hands) -> None:
    good = foresail.labelled("back", 2).revision
    before = hands.get(DEPLOYMENTS, "back")["spec"]
    assert rolled_out(foresail, hands, "back", WORSE) != good
    assert rolled_out(foresail, hands, "back", WORST) != good
    hands.scaled("back", 3)
    foresail.at_rest("back", 3)
    foresail.cluster.roll_back(key_of("back"), good)
    hands.until(lambda: {image_of(pod) for pod in hands.pods("back")} == {IMAGE})
    pool = foresail.at_rest("back", 3)
    assert pool.revision == good
    held = hands.get(DEPLOYMENTS, "back")
    assert held["spec"] == {**before, "replicas": 3}
    assert held["metadata"]["annotations"]["kubernetes.io/change-cause"].endswith(good)
    sizes = {image_of(one): one["spec"]["replicas"] for one in hands.list(SETS, labelSelector="app=back")}
    assert {image: sizes[image] for image in (IMAGE, WORSE, WORST)} == {IMAGE: 3, WORSE: 0, WORST: 0}


def test_a_rollout_that_never_gets_ready_is_gone_back_from(foresail: Acting, hands: Hands) -> None:
    if hands.kubelets:
        pytest.skip("kubelets say themselves who is Ready")
    good = foresail.labelled("stuck", 2).revision
    there = hands.names("stuck")
    hands.broken.add(BROKEN)
    roll_out(hands, "stuck", BROKEN)
    foresail.seen("stuck", lambda pool: pool.revision != good and len(pool.replicas) == 3)
    foresail.cluster.roll_back(key_of("stuck"), good)
    pool = foresail.at_rest("stuck", 2)
    assert pool.revision == good
    assert hands.names("stuck") == there


def test_a_template_that_somebody_has_mended_meanwhile_is_left_alone(foresail: Acting, hands: Hands) -> None:
    good = foresail.labelled("mended", 1).revision
    rolled_out(foresail, hands, "mended", WORSE, replicas=1)
    foresail.pool("mended")
    roll_out(hands, "mended", WORST)
    with pytest.raises(StalePlan, match="another template"):
        foresail.cluster.roll_back(key_of("mended"), good)
    assert image_of(hands.get(DEPLOYMENTS, "mended")) == WORST


def test_what_is_written_from_an_older_state_is_refused(hands: Hands) -> None:
    old = hands.deployment("worded", 0)
    hands.patch(DEPLOYMENTS, "worded", {"metadata": {"annotations": {"note": "a"}}}, MERGE_PATCH)
    change = {"op": "replace", "path": "/spec/template", "value": template("worded", WORSE)}
    with pytest.raises(ApiRefused, match="due to an error in our request"):
        hands.patch(DEPLOYMENTS, "worded", if_unchanged(old, [change]))
    assert image_of(hands.get(DEPLOYMENTS, "worded")) == IMAGE


def test_a_rollout_is_held_and_let_go(foresail: Acting, hands: Hands) -> None:
    foresail.labelled("held", 2)
    key = key_of("held")
    foresail.cluster.pause(key)
    roll_out(hands, "held", WORSE)
    wanted = hands.get(DEPLOYMENTS, "held")["metadata"]["generation"]
    hands.until(lambda: hands.get(DEPLOYMENTS, "held")["status"]["observedGeneration"] >= wanted)
    assert {image_of(pod) for pod in hands.pods("held")} == {IMAGE}
    assert foresail.seen("held", lambda pool: pool.paused)
    foresail.cluster.resume(key)
    hands.until(lambda: {image_of(pod) for pod in hands.pods("held")} == {WORSE})
    foresail.at_rest("held", 2)


def test_who_paused_it_ends_the_pause(foresail: Acting, hands: Hands) -> None:
    good = foresail.labelled("theirs", 1).revision
    rolled_out(foresail, hands, "theirs", WORSE, replicas=1)
    hands.patch(DEPLOYMENTS, "theirs", {"spec": {"paused": True}}, MERGE_PATCH, by="kubectl-rollout")
    assert foresail.seen("theirs", lambda pool: pool.paused)
    for act in (foresail.cluster.resume, lambda key: foresail.cluster.roll_back(key, good)):
        with pytest.raises(ActuationError, match="paused by somebody else"):
            act(key_of("theirs"))
    assert image_of(hands.get(DEPLOYMENTS, "theirs")) == WORSE


def test_a_template_that_a_tool_applies_is_refused_until_it_may_be_overruled(
    foresail: Acting, hands: Hands, place: Place
) -> None:
    good = foresail.labelled("applied", 1).revision
    applied = {
        "metadata": {"name": "applied", "namespace": hands.namespace},
        "spec": {"selector": {"matchLabels": {"app": "applied"}}, "template": template("applied", WORSE)},
    }
    hands.apply(DEPLOYMENTS, "applied", applied, by="argocd-controller")
    hands.until(lambda: {image_of(pod) for pod in hands.pods("applied")} == {WORSE})
    bad = foresail.at_rest("applied", 1).revision
    with pytest.raises(ActuationError, match="Argo CD"):
        foresail.cluster.roll_back(key_of("applied"), good)
    assert image_of(hands.get(DEPLOYMENTS, "applied")) == WORSE
    with acting_on(place, ownership={"take_over": ["gitops"]}) as allowed:
        assert allowed.at_rest("applied", 1).revision == bad
        allowed.cluster.roll_back(key_of("applied"), good)
    hands.until(lambda: {image_of(pod) for pod in hands.pods("applied")} == {IMAGE})
