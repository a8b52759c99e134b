"""Do the data files of metric names say what is known of the engines?"""

from __future__ import annotations

import pytest

from controller.signals.catalogue import MetricNames, catalogue, signals

ENGINES = ("sglang", "tgi", "triton", "vllm")


def names_of(source: str, signal: str) -> list[str]:
    return [candidate.name for candidate in catalogue()[source].candidates(signal)]


def test_every_signal_is_named_by_somebody_and_says_what_its_absence_costs() -> None:
    named = {signal for names in catalogue().values() for signal in names.signals}
    assert named == set(signals())
    assert all(len(signal.without) > 20 for signal in signals().values())


def test_engines_report_of_replicas_and_gateways_of_requests() -> None:
    assert {name for name, names in catalogue().items() if names.scope == "replica"} == set(ENGINES)
    gateways = {name for name, names in catalogue().items() if names.scope == "gateway"}
    assert gateways == {"arrivals", "dynamo", "envoy", "epp"}
    assert {name for name, names in catalogue().items() if names.scope == "gpu"} == {"dcgm"}


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_names_for_what_decisions_cannot_do_without(engine: str) -> None:
    needed = {"running_requests", "queued_requests", "kv_cache_ratio", "finished_requests_total", "steps_total"}
    assert needed <= set(catalogue()[engine].signals)


def test_current_names_of_vllm_come_before_those_that_were_removed() -> None:
    names = names_of("vllm", "kv_cache_ratio")
    assert names[0] == "vllm:kv_cache_usage_perc"
    assert names.index("vllm:kv_cache_usage_perc") < names.index("vllm:gpu_cache_usage_perc")
    tpot = [name for name in names_of("vllm", "tpot_seconds") if name.startswith("vllm:")]
    assert tpot == [
        "vllm:request_time_per_output_token_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:time_per_output_token_seconds",
    ]


def test_names_are_known_with_the_prefixes_of_others_who_export_them() -> None:
    assert {"vllm:num_requests_running", "kserve_vllm:num_requests_running", "ray_vllm_num_requests_running"} <= set(
        names_of("vllm", "running_requests")
    )
    assert names_of("sglang", "kv_cache_ratio") == ["sglang:token_usage", "sglang_token_usage"]


def test_preemptions_are_counted_and_not_those_of_the_last_batch() -> None:
    assert names_of("vllm", "preemptions_total")[0] == "vllm:num_preemptions_total"
    assert names_of("sglang", "preemptions_total")[0] == "sglang:num_retracted_requests_total"


def test_only_exporters_of_gpu_figures_name_replicas_by_their_own_labels() -> None:
    said = catalogue()["dcgm"].model_dump(by_alias=True)
    with pytest.raises(ValueError, match="labels for the replica"):
        MetricNames.model_validate({**said, "replica_labels": []})
    with pytest.raises(ValueError, match="labels for the replica"):
        MetricNames.model_validate({**said, "scope": "replica"})


def test_the_step_heartbeat_of_vllm_is_the_count_of_a_histogram_that_is_named_like_a_counter() -> None:
    assert names_of("vllm", "steps_total")[0] == "vllm:iteration_tokens_total_count"


def test_deferred_requests_are_not_found_by_a_prefix_of_their_name() -> None:
    every = [name for names in catalogue().values() for signal in names.signals for name in names_of_all(names, signal)]
    assert not any("waiting_by_reason" in name or "*" in name for name in every)


def names_of_all(names: MetricNames, signal: str) -> list[str]:
    return [candidate.name for candidate in names.candidates(signal)]


def test_ranks_that_repeat_a_figure_are_known_by_their_labels() -> None:
    assert {"tp_rank", "pp_rank", "moe_ep_rank"} <= set(catalogue()["sglang"].repeated_labels)


def test_a_candidate_is_shown_with_what_narrows_it_down() -> None:
    finished = next(catalogue()["vllm"].candidates("finished_requests_total"))
    assert finished.shown == "vllm:request_success_total{finished_reason!=abort|error}"


def test_a_gateway_without_a_subject_is_no_gateway() -> None:
    with pytest.raises(ValueError, match="subject"):
        MetricNames.model_validate(
            {"title": "x", "scope": "gateway", "checked": "", "prefixes": [""], "repeated_labels": [], "signals": {}}
        )
