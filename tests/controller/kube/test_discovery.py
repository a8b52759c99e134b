"""Which workloads are taken for pools, and under which names?"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from controller.adapters.kube.discovery import InferencePool, Place, discover, read_inference_pool
from controller.adapters.kube.json_reading import Refused
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.kube.workloads import Reading, Workload, read_workload
from tests.builders_kube import T0, metadata, stamp, template_json, workload_json


def _settings(**more: Any) -> KubernetesSettings:
    return KubernetesSettings(namespaces=("prod",), **more)


def _workload(name: str = "llama", at: float = T0, **more: Any) -> Workload:
    told = workload_json(name, **more)
    told["metadata"]["creationTimestamp"] = stamp(at)
    found = read_workload(told, "Deployment", Reading(frozenset(), "foresail.dev"))
    assert isinstance(found, Workload)
    return found


def _keys(found: Any) -> dict[str, str]:
    return {uid: str(place.key) for uid, place in found.items()}


def _labelled(name: str, at: float = T0, annotations: dict[str, str] | None = None, **labels: str) -> Workload:
    known = {f"foresail.dev/{key}": said for key, said in labels.items()}
    return _workload(name, at, meta={"labels": known, "annotations": annotations or {}})


def test_a_workload_with_our_label_is_a_pool_named_after_it() -> None:
    found, refused = discover([_labelled("llama", model="llama"), _labelled("web")], (), _settings())
    assert _keys(found) == {"uid-llama": "llama/llama/unified"}
    assert refused == ()


def test_annotations_say_what_labels_cannot() -> None:
    marks = {"foresail.dev/model": "meta/Llama-3", "foresail.dev/usd-per-replica-hour": "12.5"}
    found, _ = discover([_labelled("p", annotations=marks, model="x", pool="a", role="prefill")], (), _settings())
    (place,) = found.values()
    assert (str(place.key), place.usd_per_replica_hour) == ("meta/Llama-3/a/prefill", 12.5)


@pytest.mark.parametrize("price", ["x", "-1", "nan", "inf", "1e30"])
def test_a_price_that_is_none_is_not_known(price: str) -> None:
    marks = {"foresail.dev/usd-per-replica-hour": price}
    found, _ = discover([_labelled("p", annotations=marks, model="x")], (), _settings())
    assert [place.usd_per_replica_hour for place in found.values()] == [0.0]


@pytest.mark.parametrize("marks", [{"role": "both"}, {"pool": "a/b"}, {"model": "a\nb"}, {"model": "x" * 300}])
def test_marks_that_cannot_name_a_pool_are_refused(marks: dict[str, str]) -> None:
    annotations = {f"foresail.dev/{key}": said for key, said in marks.items()}
    found, refused = discover([_labelled("odd", annotations=annotations, model="x")], (), _settings())
    assert found == {}
    assert [refusal.subject for refusal in refused] == ["Deployment prod/odd"]


def test_a_newer_workload_does_not_displace_the_pool_that_it_claims_to_be() -> None:
    old, new = _labelled("old", model="x", pool="a"), _labelled("new", T0 + 60, model="x", pool="a")
    found, refused = discover([new, old], (), _settings())
    assert _keys(found) == {"uid-old": "x/a/unified"}
    assert [refusal.subject for refusal in refused] == ["Deployment prod/new"]


def test_a_workload_that_settings_name_is_what_they_say() -> None:
    entry = {"namespace": "prod", "name": "new", "model": "x", "pool": "a", "gpus_per_replica": 4, "engine_port": 9000}
    old, new = _labelled("old", model="x", pool="a"), _labelled("new", T0 + 60, model="y")
    found, refused = discover([old, new], (), _settings(pools=[entry]))
    (place,) = found.values()
    assert (str(place.key), place.gpus, place.engine.port) == ("x/a/unified", 4, 9000)
    assert [refusal.subject for refusal in refused] == ["Deployment prod/old"]


def test_a_workload_that_settings_name_and_that_is_not_there_is_told() -> None:
    _, refused = discover([], (), _settings(pools=[{"namespace": "prod", "name": "gone", "model": "x"}]))
    assert refused == (Refused("Deployment prod/gone", "is not there"),)


def _behind(name: str, **labels: str) -> Workload:
    return _workload(name, meta={"labels": {}}, spec={"template": template_json(labels={"app": "llama", **labels})})


def test_workloads_behind_an_inference_pool_are_pools_of_its_model() -> None:
    pool = InferencePool("prod", "llama-3", "llama-3", {"app": "llama"}, 8080)
    elsewhere = InferencePool("test", "x", "x", {"app": "llama"}, 1)
    workloads = [_behind("p", **{"llm-d.ai/role": "prefill"}), _behind("d", **{"llm-d.ai/role": "decode"})]
    found, refused = discover(workloads, (pool, elsewhere), _settings(by_inference_pools=True))
    assert _keys(found) == {"uid-p": "llama-3/p/prefill", "uid-d": "llama-3/d/decode"}
    assert {place.engine.port for place in found.values()} == {8080}
    assert refused == ()
    assert discover(workloads, (pool,), _settings())[0] == {}


def test_a_workload_behind_inference_pools_of_two_models_is_refused() -> None:
    pools = [InferencePool("prod", name, name, {"app": "llama"}, None) for name in ("a", "b")]
    found, refused = discover([_behind("p")], pools, _settings(by_inference_pools=True))
    assert found == {}
    assert len(refused) == 1


def test_an_inference_pool_is_read_with_its_selector_and_port() -> None:
    told = {
        "metadata": metadata("llama-3"),
        "spec": {"selector": {"matchLabels": {"app": "llama"}}, "targetPorts": [{"number": 8000}]},
    }
    assert read_inference_pool(told, "foresail.dev") == InferencePool(
        "prod", "llama-3", "llama-3", {"app": "llama"}, 8000
    )
    told["metadata"]["annotations"] = {"foresail.dev/model": "meta/Llama-3"}
    found = read_inference_pool(told, "foresail.dev")
    assert isinstance(found, InferencePool)
    assert found.model == "meta/Llama-3"
    told["spec"]["selector"] = {"matchLabels": {}}
    assert isinstance(read_inference_pool(told, "foresail.dev"), Refused)  # it would select everything


def test_a_common_name_of_the_engine_may_be_another_for_one_pool() -> None:
    entry = {"namespace": "prod", "name": "llama", "model": "x", "engine_container": "vllm"}
    places: list[Place] = []
    for settings in (_settings(engine_container="absent"), _settings(engine_container="absent", pools=[entry])):
        found, _ = discover([_labelled("llama", model="x")], (), settings)
        places += found.values()
    assert [bool(place.note) for place in places] == [True, False]
    assert [place.engine.container for place in places] == ["vllm", "vllm"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"namespaces": ("*", "a")}, "stands alone"),
        ({"namespaces": ("a", "a")}, "named twice"),
        ({"namespaces": ()}, "at least 1"),
        ({"namespaces": ("Prod",)}, "pattern"),
        ({"pools": [{"namespace": "test", "name": "x", "model": "x"}]}, "none of namespaces"),
        ({"pools": [{"kind": "Rollout", "namespace": "default", "name": "x", "model": "x"}]}, "none of kinds"),
        ({"custom_kinds": [{"kind": "Deployment", "group": "x.io", "plural": "x"}]}, "twice"),
        ({"stale_after_s": 50.0}, "two watches"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        KubernetesSettings.model_validate(wrong)
