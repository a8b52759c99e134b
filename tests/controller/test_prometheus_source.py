"""Is each engine and gateway understood as it reports, by a real Prometheus that is given their series?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from threading import Event

import pytest

from controller.adapters.prometheus import PrometheusSource
from controller.adapters.prometheus_http import PrometheusHttp, Row
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.doctor_findings import Findings
from controller.doctor_store import _examine_gpus, _examine_signals
from controller.errors import ObservationError, QueryRefused
from controller.ports import FleetMetrics
from policies.settings import PolicySettings
from policies.slo import ServiceObjective
from tests.builders import pool_settings
from tests.builders_prometheus import STALE, Labels, RunningPrometheus, Sample, VllmReplica, client_of, write

_epochs = itertools.count(1_000_000, 20_000)
Figure = tuple[str, Labels, float]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPrometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    with RunningPrometheus(folder, "", "--web.enable-remote-write-receiver") as running:
        yield running


class Store:
    """A stretch of time of its own in the store, whose present moves by 15 s with each scrape."""

    def __init__(self, server: RunningPrometheus) -> None:
        self._server = server
        self.at = float(next(_epochs))
        self._sources: list[PrometheusSource] = []

    def scrape(self, *figures: Figure, age_s: float = 1.0) -> None:
        """Store figures as sampled a moment before the present, 15 s after the last ones."""
        self.at += 15.0
        write(self._server, [Sample({**labels, "__name__": name}, self.at - age_s, v) for name, labels, v in figures])

    def source(self, policy: PolicySettings | None = None, **changes: object) -> PrometheusSource:
        told = {"url": self._server.url, "max_clock_skew_s": 1e12, "probe_interval_s": 10.0, **changes}
        settings = PrometheusSettings.model_validate(told)
        source = PrometheusSource(client_of(**told), settings, policy or a_policy(), lambda: 0.0)
        self._sources.append(source)
        return source

    def close(self) -> None:
        for source in self._sources:
            source.close()


@pytest.fixture
def store(server: RunningPrometheus) -> Iterator[Store]:
    made = Store(server)
    yield made
    made.close()


def a_policy(objective: ServiceObjective | None = None) -> PolicySettings:
    return PolicySettings(pools={"m/a/unified": pool_settings()}, objective=objective or ServiceObjective())


def of_pod(name: str, figures: Sequence[Figure], pool: str = "a", model: str = "m") -> list[Figure]:
    """Return figures as Prometheus stores them, with the labels of their target."""
    target = {"pod": name, "pool": pool, "model_name": model, "instance": f"10.0.0.{name[-1]}:8000"}
    return [("up", target, 1.0), *((metric, {**labels, **target}, value) for metric, labels, value in figures)]


def an_engine(name: str = "r0", pool: str = "a", model: str = "m", **state: float | str) -> list[Figure]:
    replica = VllmReplica(model)
    for key, value in state.items():
        setattr(replica, key, value)
    return of_pod(name, replica.figures(), pool, model)


def looked(source: PrometheusSource, store: Store) -> FleetMetrics:
    return source.read(store.at)


def test_ranks_repeat_a_figure_and_data_parallel_engines_do_not(store: Store) -> None:
    figures: list[Figure] = []
    for dp_rank, tp_rank in itertools.product("01", "0123"):
        labels = {"dp_rank": dp_rank, "tp_rank": tp_rank, "pp_rank": "0", "engine_type": "unified"}
        figures += [
            ("sglang:num_running_reqs", labels, 5.0 + int(dp_rank)),
            ("sglang:num_queue_reqs", labels, 2.0),
            ("sglang:token_usage", labels, 0.25 * (1 + int(dp_rank))),
        ]
    figures.append(("sglang:prompt_tokens_total", {}, 1000.0))
    store.scrape(*of_pod("r0", figures))
    metrics = looked(store.source(), store).replicas["r0"]
    assert metrics.running_requests == 11.0
    assert metrics.queued_requests == 4.0
    assert metrics.kv_cache_ratio == 0.5
    assert metrics.prompt_tokens_total == 1000.0
    assert math.isnan(metrics.steps_total)


def test_an_underscore_in_the_place_of_the_colon_is_the_same_engine(store: Store) -> None:
    store.scrape(*of_pod("r0", [("sglang_num_running_reqs", {}, 3.0), ("sglang_token_usage", {}, 0.5)]))
    metrics = looked(store.source(), store).replicas["r0"]
    assert (metrics.running_requests, metrics.kv_cache_ratio) == (3.0, 0.5)


def test_a_fleet_in_the_middle_of_an_upgrade_is_whole(store: Store) -> None:
    """Old and new names on different replicas, and both on a third: it counts once."""
    store.scrape(
        *an_engine("r0", kv=0.2),
        *an_engine("r1", kv=0.4, kv_name="vllm:gpu_cache_usage_perc"),
        *an_engine("r2", kv=0.6),
        ("vllm:gpu_cache_usage_perc", {"pod": "r2", "pool": "a", "model_name": "m", "instance": "10.0.0.2:8000"}, 0.6),
    )
    replicas = looked(store.source(), store).replicas
    assert [replicas[name].kv_cache_ratio for name in ("r0", "r1", "r2")] == [0.2, 0.4, 0.6]


def test_a_ratio_is_made_of_two_metrics_where_there_is_none(store: Store) -> None:
    figures: list[Figure] = [
        ("tgi_batch_current_size", {}, 4.0),
        ("tgi_queue_size", {}, 1.0),
        ("tgi_batch_current_max_tokens", {}, 3000.0),
        ("tgi_batch_max_total_tokens", {}, 12000.0),
    ]
    store.scrape(*of_pod("r0", figures))
    metrics = looked(store.source(), store).replicas["r0"]
    assert metrics.kv_cache_ratio == 0.25
    assert metrics.running_requests == 4.0


def test_tensorrt_llm_behind_triton_tells_by_the_kind_of_its_requests(store: Store) -> None:
    figures: list[Figure] = [
        ("nv_trt_llm_request_metrics", {"request_type": "scheduled", "model": "x"}, 6.0),
        ("nv_trt_llm_request_metrics", {"request_type": "waiting", "model": "x"}, 2.0),
        ("nv_trt_llm_request_metrics", {"request_type": "max", "model": "x"}, 512.0),
        ("nv_trt_llm_kv_cache_block_metrics", {"kv_cache_block_type": "fraction"}, 0.75),
        ("nv_trt_llm_kv_cache_block_metrics", {"kv_cache_block_type": "used"}, 900.0),
    ]
    store.scrape(*of_pod("r0", figures))
    metrics = looked(store.source(), store).replicas["r0"]
    assert (metrics.running_requests, metrics.queued_requests, metrics.kv_cache_ratio) == (6.0, 2.0, 0.75)


def test_labels_that_an_engine_lacks_are_those_of_its_target(store: Store) -> None:
    target = {"pod": "r0", "pool": "a", "model_name": "m", "instance": "10.0.0.0:8000"}
    bare = {"pod": "r0"}
    store.scrape(("up", target, 1.0), ("tgi_batch_current_size", bare, 1.0), ("tgi_request_success", bare, 10.0))
    source = store.source()
    looked(source, store)
    store.scrape(("up", target, 1.0), ("tgi_batch_current_size", bare, 1.0), ("tgi_request_success", bare, 40.0))
    assert looked(source, store).demand["m"].requests_per_s == pytest.approx(2.0)


def test_a_replica_that_two_pools_claim_is_nobodys(store: Store) -> None:
    store.scrape(*an_engine("r0", pool="a"), *an_engine("r0", pool="b"), *an_engine("r1"))
    metrics = looked(store.source(), store)
    assert set(metrics.replicas) == {"r1"}
    assert "ambiguous:r0 (told of twice)" in metrics.missing


def test_queues_that_grow_are_load_that_arrived(store: Store) -> None:
    source = store.source()
    store.scrape(*an_engine(finished=100.0, running=10.0, queued=0.0))
    looked(source, store)
    store.scrape(*an_engine(finished=130.0, running=20.0, queued=35.0))
    demand = looked(source, store).demand["m"]
    assert demand.requests_per_s == pytest.approx((30 + 45) / 15)
    assert demand.prompt_tokens_per_s == pytest.approx(5.0 * 100.0)
    assert demand.cached_prompt_ratio == pytest.approx(0.25)


def test_what_clients_gave_up_had_arrived(store: Store) -> None:
    source = store.source()
    store.scrape(*an_engine(finished=100.0, aborted=5.0, failed=1.0))
    looked(source, store)
    store.scrape(*an_engine(finished=115.0, aborted=20.0, failed=16.0))
    metrics = looked(source, store)
    assert metrics.demand["m"].requests_per_s == pytest.approx(3.0)
    assert metrics.replicas["r0"].failed_requests_total == 16.0


def test_the_first_look_has_rates_where_the_store_has_a_past(store: Store) -> None:
    for finished in (100.0, 130.0, 160.0, 190.0):
        store.scrape(*an_engine(finished=finished))
    assert looked(store.source(), store).demand["m"].requests_per_s == pytest.approx(2.0)


def test_attainment_is_the_least_that_both_histograms_allow(store: Store) -> None:
    policy = a_policy(ServiceObjective(ttft_s=1.0, tpot_s=0.1, window_s=60.0))
    source = store.source(policy)
    for step in range(5):
        store.scrape(*an_engine(finished=100.0 * step, slow=10.0 * step))
    level = looked(source, store).service["m"]
    assert level.window_s == 60.0
    assert level.attainment_ratio == pytest.approx(0.9)
    assert level.finished == pytest.approx(400.0, rel=0.3)


def test_old_samples_show_their_age_and_make_no_load(store: Store) -> None:
    source = store.source()
    store.scrape(*an_engine(finished=100.0))
    looked(source, store)
    store.scrape(*an_engine(finished=130.0))
    sampled_at = store.at - 1.0
    store.at += 100.0
    metrics = looked(source, store)
    assert metrics.replicas["r0"].observed_at == sampled_at
    assert metrics.demand == {}
    assert "demand:m" in metrics.missing


def gateway(name: str, metrics: dict[str, float], labels: Labels) -> list[Figure]:
    target = {"instance": name}
    return [("up", target, 1.0), *((metric, {**labels, **target}, value) for metric, value in metrics.items())]


def envoy(name: str = "gw0", cluster: str = "m/a/unified", **counts: float) -> list[Figure]:
    figures = {"rq_total": 0.0, "cx_none_healthy": 0.0, "rq_retry": 0.0, "rq_pending_active": 0.0, **counts}
    named = {f"envoy_cluster_upstream_{key}": value for key, value in figures.items()}
    return gateway(name, named, {"envoy_cluster_name": cluster})


def test_envoy_counts_what_it_could_not_send_and_not_what_it_sent_again(store: Store) -> None:
    source = store.source()
    store.scrape(*an_engine(), *envoy(rq_total=100.0))
    looked(source, store)
    store.scrape(*an_engine(), *envoy(rq_total=160.0, cx_none_healthy=45.0, rq_retry=15.0, rq_pending_active=7.0))
    metrics = looked(source, store)
    assert metrics.demand["m"].requests_per_s == pytest.approx((60 + 45 - 15) / 15)
    assert metrics.gateway_queued == {"m": 7.0}


def test_gateways_add_up_and_one_that_restarts_is_no_lull(store: Store) -> None:
    source = store.source()
    store.scrape(*an_engine(), *envoy("gw0", rq_total=5000.0), *envoy("gw1", rq_total=700.0))
    looked(source, store)
    store.scrape(*an_engine(), *envoy("gw0", rq_total=30.0), *envoy("gw1", rq_total=760.0))
    assert looked(source, store).demand["m"].requests_per_s == pytest.approx(90 / 15)


def test_what_gateways_count_is_as_of_the_samples_of_their_processes(store: Store) -> None:
    source = store.source()

    def sends(gateway: str) -> Figure:
        labels = {"envoy_cluster_name": "a", "envoy_endpoint_address": "10.0.0.0:8000", "instance": gateway}
        return "envoy_cluster_endpoint_rq_active", labels, 3.0

    store.scrape(*an_engine(), sends("gw0"), sends("gw1"))
    looked(source, store)
    store.scrape(*an_engine(), sends("gw0"))
    metrics = looked(source, store)
    assert metrics.gateway_newest_at - metrics.gateway_oldest_at == 15.0
    assert metrics.gateway_newest_at == metrics.replicas["r0"].observed_at
    assert metrics.in_flight == {"r0": 6.0}


def test_arrivals_that_are_counted_by_model_come_before_those_per_pool(store: Store) -> None:
    source = store.source()

    def started(count: float) -> list[Figure]:
        return gateway("gw0", {"envoy_gateway_requests_started": count}, {"model_name": "m"})

    store.scrape(*an_engine(), *envoy(rq_total=100.0), *started(10.0))
    looked(source, store)
    store.scrape(*an_engine(), *envoy(rq_total=1000.0), *started(40.0))
    assert looked(source, store).demand["m"].requests_per_s == pytest.approx(2.0)


def test_a_frontend_that_counts_on_acceptance_tells_load_queue_and_lengths(store: Store) -> None:
    source = store.source()

    def frontend(count: float) -> list[Figure]:
        prefix = "dynamo_frontend_"
        figures = {
            f"{prefix}requests_started_total": count,
            f"{prefix}queued_requests": 3.0,
            f"{prefix}input_sequence_tokens_sum": 500.0 * count,
            f"{prefix}input_sequence_tokens_count": count,
            f"{prefix}output_sequence_tokens_sum": 50.0 * count,
            f"{prefix}output_sequence_tokens_count": count,
        }
        return gateway("dynamo", figures, {"model": "m"})

    for count in (0.0, 30.0, 60.0):
        store.scrape(*frontend(count))
        metrics = None if count == 0.0 else looked(source, store)
    assert metrics is not None
    assert metrics.demand["m"].requests_per_s == pytest.approx(2.0)
    assert metrics.demand["m"].prompt_tokens_per_s == pytest.approx(1000.0)
    assert metrics.demand["m"].output_tokens_per_s == pytest.approx(100.0)
    assert metrics.gateway_queued == {"m": 3.0}


def test_endpoints_are_found_by_address_and_by_the_host_alone_where_it_has_one_replica(store: Store) -> None:
    def endpoint(address: str, active: float) -> Figure:
        labels = {"envoy_cluster_name": "a", "envoy_endpoint_address": address, "instance": "gw0"}
        return "envoy_cluster_endpoint_rq_active", labels, active

    store.scrape(
        *an_engine("r0"),
        *an_engine("r1"),
        *envoy(),
        endpoint("10.0.0.0:8000", 3.0),
        endpoint("10.0.0.1:9999", 4.0),
        endpoint("10.9.9.9:8000", 5.0),
    )
    assert looked(store.source(), store).in_flight == {"r0": 3.0, "r1": 4.0}


def test_a_picker_that_names_replicas_tells_what_each_was_sent(store: Store) -> None:
    figures: list[Figure] = [
        ("llm_d_epp_request_total", {"model_name": "m", "instance": "epp"}, 10.0),
        ("llm_d_epp_inflight_requests", {"endpoint_name": "r0", "instance": "epp"}, 2.0),
    ]
    store.scrape(*an_engine("r0"), *figures)
    assert looked(store.source(), store).in_flight == {"r0": 2.0}


GATEWAY = {"instance": "envoy:9901"}


def ended(code: str, count: float, flags: str = "-", replica: str = "r0") -> Figure:
    labels = {**GATEWAY, "envoy_endpoint_address": f"10.0.0.{replica[-1]}:8000"}
    return "envoy_gateway_requests_ended", {**labels, "flags": flags, "code": code}, count


def test_only_errors_of_the_replicas_own_are_failed_answers_and_before_the_first_there_are_none(store: Store) -> None:
    store.scrape(*an_engine("r0"), *an_engine("r1"), ended("200", 5.0), ended("400", 2.0), ended("200", 9.0, "-", "r1"))
    source = store.source()
    metrics = looked(source, store)
    assert (metrics.answered, metrics.failed_answers) == ({"r0": 7.0, "r1": 9.0}, {"r0": 0.0, "r1": 0.0})
    assert not [told for told in metrics.missing if "answers" in told]
    failed = [ended(code, 1.0) for code in ("500", "502", "504")]
    others = [ended("503", 8.0), ended("501", 8.0), ended("502", 8.0, "UF"), ended("504", 8.0, "SI")]
    store.scrape(*an_engine("r0"), *an_engine("r1"), ended("200", 5.0), *failed, *others, ended("200", 9.0, "-", "r1"))
    assert looked(source, store).failed_answers == {"r0": 3.0, "r1": 0.0}


def endpoint_count(metric: str, count: float, replica: str = "r0") -> Figure:
    labels = {**GATEWAY, "envoy_cluster_name": "a", "envoy_endpoint_address": f"10.0.0.{replica[-1]}:8000"}
    return f"envoy_cluster_endpoint_{metric}", labels, count


def test_a_replica_that_the_gateway_cannot_connect_to_is_told_and_the_others_are_reached(store: Store) -> None:
    engines = (*an_engine("r0"), *an_engine("r1"))
    active = [endpoint_count("rq_active", 0.0, name) for name in ("r0", "r1")]
    source = store.source()
    store.scrape(*engines, *active)
    assert looked(source, store).unreached == {}  # nobody counts them
    store.scrape(
        *engines, *active, endpoint_count("cx_connect_fail", 12.0), endpoint_count("cx_connect_fail", 0.0, "r1")
    )
    metrics = looked(source, store)
    assert metrics.unreached == {"r0": 12.0, "r1": 0.0}
    assert not [told for told in metrics.missing if "unreached" in told]


def test_requests_that_preempt_each_other_or_are_given_up_are_told_of_each_replica(store: Store) -> None:
    preempted: Figure = ("vllm:num_preemptions_total", {"engine": "0"}, 7.0)
    store.scrape(*an_engine("r0", aborted=3.0), *of_pod("r0", [preempted])[1:], *an_engine("r1"))
    replicas = looked(store.source(), store).replicas
    assert (replicas["r0"].preemptions_total, replicas["r0"].aborted_requests_total) == (7.0, 3.0)
    assert math.isnan(replicas["r1"].preemptions_total)
    assert replicas["r1"].aborted_requests_total == 0.0


def gpu(replica: str, number: int = 0, *, honored: bool = False, **told: float) -> list[Figure]:
    """Return what the exporter on a node says of one GPU; a scrape may rename the label that says who holds it."""
    holder = {"pod": replica} if honored else {"exported_pod": replica, "pod": "dcgm-exporter-x7f2"}
    labels = {"gpu": str(number), "UUID": f"GPU-{replica}-{number}", "instance": "10.0.1.1:9400", **holder}
    named = {"POWER_USAGE": 420.0, "ENFORCED_POWER_LIMIT": 700.0, "SM_CLOCK": 1485.0, "MAX_SM_CLOCK": 1980.0}
    figures = {"XID_ERRORS": 0.0, **named, **told}
    return [(f"DCGM_FI_DEV_{name}", labels, value) for name, value in figures.items()]


@pytest.mark.parametrize("honored", [False, True])
def test_gpus_are_those_of_the_replica_that_holds_them_and_the_worst_of_several_counts(
    store: Store, honored: bool
) -> None:
    engines = (*an_engine("r0"), *an_engine("r1"))
    source = store.source()
    throttled = gpu("r0", 1, honored=honored, POWER_USAGE=105.0, SM_CLOCK=495.0)
    store.scrape(*engines, *gpu("r0", honored=honored), *throttled, *gpu("trainer-0", honored=honored))
    metrics = looked(source, store)
    assert source.gpus.others == 1
    r0 = metrics.replicas["r0"]
    assert (r0.gpu_xid, r0.gpu_power_ratio, r0.gpu_clock_ratio) == (0.0, pytest.approx(0.15), pytest.approx(0.25))
    assert math.isnan(metrics.replicas["r1"].gpu_xid)  # nobody exports its GPUs
    assert set(metrics.replicas) == {"r0", "r1"}
    assert not [told for told in metrics.missing if "gpu" in told]
    findings = Findings("")
    _examine_signals(source.sources, findings)
    _examine_gpus(source, metrics, findings)
    assert "DCGM exporter: 3 GPUs" in findings.sources
    assert "GPUs of 1 of 2 replicas; those of 1 other pod are ignored" in findings.sources
    assert "DCGM_FI_DEV_XID_ERRORS" in next(f.metrics for f in findings.signals if f.signal == "gpu_xid")


def test_an_xid_is_told_once_it_occurs_for_some_time_and_not_of_whoever_gets_the_gpu_next(store: Store) -> None:
    source = store.source(event_window_s=60.0)
    seen = []
    for xid in (31.0, 31.0, 79.0, 79.0, 79.0, 79.0, 79.0, 79.0, 79.0):
        store.scrape(*an_engine("r0"), *gpu("r0", XID_ERRORS=xid))
        seen.append(looked(source, store).replicas["r0"].gpu_xid)
    assert seen[:3] == [0.0, 0.0, 79.0]  # the first was there before it had the GPU
    assert seen[4] == 79.0
    assert seen[-1] == 0.0


@pytest.mark.parametrize("label", ["Hostname", "node"])
def test_an_xid_is_told_of_the_node_whoever_holds_the_gpu_and_when_its_engine_is_gone(store: Store, label: str) -> None:
    def on(node: str, pod: str, xid: float) -> list[Figure]:
        return [(name, {**labels, label: node}, value) for name, labels, value in gpu(pod, XID_ERRORS=xid)]

    source = store.source(event_window_s=60.0)
    for xid in (0.0, 79.0, 79.0):
        engines = [*an_engine("r1"), *(an_engine("r0") if not xid else [])]  # r0 exits, and keeps its GPU
        store.scrape(*engines, *on("n0", "r0", xid), *on("n0", "trainer", 0.0), *on("n1", "r1", 0.0), *gpu("r2"))
        metrics = looked(source, store)
        assert metrics.node_xids == {"n0": xid, "n1": 0.0}
    for _ in range(5):
        store.scrape(*an_engine("r1"), *on("n0", "r0", 79.0))
        metrics = looked(source, store)
    assert metrics.node_xids == {"n0": 0.0}  # it is over, and the exporter of the other one silent


def test_gpu_figures_that_are_old_or_cannot_be_are_missing(store: Store) -> None:
    source = store.source()
    blank = gpu("r0", MAX_SM_CLOCK=9.2e18, POWER_USAGE=0.0)
    store.scrape(*an_engine("r0"), *blank)
    metrics = looked(source, store)
    r0 = metrics.replicas["r0"]
    assert math.isnan(r0.gpu_power_ratio)
    assert math.isnan(r0.gpu_clock_ratio)
    assert r0.gpu_xid == 0.0
    assert "gpu_power_ratio:r0 (impossible: 0)" in metrics.missing
    for _ in range(4):
        store.scrape(*an_engine("r0"))
    metrics = looked(source, store)
    assert math.isnan(metrics.replicas["r0"].gpu_xid)
    assert "gpu:dcgm (1 of 1 pods last sampled too long ago)" in metrics.missing


def test_gpus_alone_are_no_fleet(store: Store) -> None:
    store.scrape(*gpu("r0"))
    with pytest.raises(ObservationError, match="no series of any known engine"):
        looked(store.source(), store)


def test_limits_that_are_not_exported_are_nothing_to_look_for(store: Store) -> None:
    """The exporter's default counters have no limits: the ratios are not there, and nothing is told to be gone."""
    limits = ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "DCGM_FI_DEV_MAX_SM_CLOCK")
    figures = [figure for figure in gpu("r0") if figure[0] not in limits]
    store.scrape(*an_engine("r0"), *figures)
    source = store.source()
    metrics = looked(source, store)
    assert metrics.replicas["r0"].gpu_xid == 0.0
    assert math.isnan(metrics.replicas["r0"].gpu_power_ratio)
    assert not [told for told in metrics.missing if "gpu" in told]


def test_an_engine_that_has_no_count_of_errors_does_not_say_that_there_were_none(store: Store) -> None:
    store.scrape(*of_pod("r0", [("sglang:num_running_reqs", {}, 3.0), ("sglang:num_requests_total", {}, 5.0)]))
    assert math.isnan(looked(store.source(), store).replicas["r0"].failed_requests_total)
    store.scrape(*an_engine("r1", finished=5.0, failed=2.0), *an_engine("r2", finished=5.0))
    replicas = looked(store.source(), store).replicas
    assert [replicas[name].failed_requests_total for name in ("r1", "r2")] == [2.0, 0.0]


def test_names_that_come_with_the_first_request_are_found_before_twice_the_time_is_over(store: Store) -> None:
    gateway: Figure = ("envoy_cluster_upstream_rq_total", {**GATEWAY, "envoy_cluster_name": "a"}, 0.0)
    store.scrape(*an_engine(), gateway)
    source = store.source(probe_interval_s=300.0)
    found = []
    for tick in range(9):
        found.append("r0" in looked(source, store).answered)
        store.scrape(*an_engine(), gateway, *([ended("200", 1.0)] if tick >= 3 else []))
    assert found.index(True) in range(4, 9)  # ticks of 15 s; it was there to be found at the fourth


def test_a_gateway_whose_samples_are_old_is_missing_rather_than_old(store: Store) -> None:
    source = store.source()
    for count in (0.0, 60.0, 120.0):
        store.scrape(*an_engine(finished=count), *envoy(rq_total=count))
        looked(source, store)
    for number in range(4):
        store.scrape(*an_engine(finished=120.0 + 30.0 * (number + 1)))
        metrics = looked(source, store)
    assert metrics.gateway_queued == {}
    assert any(what.startswith("gateway:gw0 (last sampled") for what in metrics.missing)
    assert metrics.demand["m"].requests_per_s == pytest.approx(2.0)


def test_an_engine_that_ends_is_gone_at_once(store: Store) -> None:
    store.scrape(*an_engine("r0"), *an_engine("r1"))
    source = store.source()
    assert set(looked(source, store).replicas) == {"r0", "r1"}
    store.scrape(*an_engine("r0"), *((name, labels, STALE) for name, labels, _ in an_engine("r1")))
    assert set(looked(source, store).replicas) == {"r0"}


def test_an_engine_that_appears_with_a_past_is_no_burst(store: Store) -> None:
    source = store.source()
    store.scrape(*an_engine("r0", finished=100.0))
    looked(source, store)
    store.scrape(*an_engine("r0", finished=130.0), *an_engine("r1", finished=1_000_000.0, running=3.0))
    assert looked(source, store).demand["m"].requests_per_s == pytest.approx(2.0 + 3.0 / 15.0, rel=0.1)


def test_only_series_that_match_belong_to_this_fleet(store: Store) -> None:
    mine = [(name, {**labels, "cluster": 'eu"1'}, value) for name, labels, value in an_engine("r0")]
    store.scrape(*mine, *an_engine("r1"))
    assert set(looked(store.source(match={"cluster": 'eu"1'}), store).replicas) == {"r0"}


def test_a_store_that_knows_no_engine_is_an_error_that_says_what_to_do(store: Store) -> None:
    store.scrape(("up", {"job": "else"}, 1.0))
    with pytest.raises(ObservationError, match="no series of any known engine"):
        looked(store.source(), store)


def test_a_model_name_that_is_an_attack_is_only_a_name(store: Store) -> None:
    name = 'm"} or vector(1) #<script>'
    source = store.source()
    store.scrape(*an_engine("r0", model=name, finished=100.0))
    looked(source, store)
    store.scrape(*an_engine("r0", model=name, finished=130.0))
    assert looked(source, store).demand[name].requests_per_s == pytest.approx(2.0)


def test_what_takes_the_server_most_time_is_asked_only_now_and_then(store: Store) -> None:
    source = store.source(means_refresh_s=60.0)
    store.scrape(*an_engine())
    looked(source, store)
    asked = []
    client = source._client
    whole = client.instant

    def counted(query: str, at: float | None = None) -> list[object]:
        asked.append(query)
        return list(whole(query, at))

    client.instant = counted  # type: ignore[method-assign,assignment] # counts what is asked of the real one
    for _ in range(4):
        store.at += 15.0
        store.scrape(*an_engine())
        looked(source, store)
    windowed = [query for query in asked if "increase" in query and "histogram_quantile" not in query]
    assert len(windowed) <= 2 * len(set(windowed))
    assert len(set(windowed)) >= 8


class BentHttp(PrometheusHttp):
    """A real client, whose answers a test can bend where they come from ``timestamp`` or from anything."""

    bend: Callable[[str, list[Row]], list[Row]] = staticmethod(lambda _, rows: rows)

    def instant(self, query: str, at: float | None = None) -> list[Row]:
        return self.bend(query, super().instant(query, at))


def bent(store: Store, **changes: object) -> tuple[PrometheusSource, BentHttp]:
    source = store.source(**changes)
    client = BentHttp(source._settings, lambda: 0.0)
    source._client = client
    return source, client


def with_value(told: object, within: str) -> Callable[[str, list[Row]], list[Row]]:
    def changed(query: str, rows: list[Row]) -> list[Row]:
        return [{**row, "value": (row["value"][0], told)} for row in rows] if within in query else rows  # type: ignore[typeddict-item]

    return changed


@pytest.mark.parametrize("told", ["NaN", "+Inf", "-Inf", "9e12"])
def test_samples_of_no_time_or_of_the_future_are_not_fresh(store: Store, told: str) -> None:
    source, client = bent(store)
    source._settings = source._settings.model_copy(update={"max_clock_skew_s": 5.0})
    source._check_clock = lambda _: None  # type: ignore[method-assign]  # the store's clock is not that of its samples
    store.scrape(*an_engine("r0", running=2.0), *envoy(rq_total=10.0))
    looked(source, store)
    store.scrape(*an_engine("r0", running=2.0), *envoy(rq_total=25.0))
    client.bend = with_value(told, "timestamp(")
    found = looked(source, store)
    assert found.replicas == {}
    assert found.demand == {}
    assert any("r0" in what and "impossible" in what for what in found.missing)
    client.bend = BentHttp.bend
    store.scrape(*an_engine("r0", running=2.0), *envoy(rq_total=40.0))
    assert looked(source, store).replicas["r0"].running_requests == 2.0


def test_answers_that_could_not_be_read_are_not_kept(store: Store) -> None:
    source, client = bent(store)
    for finished in (10.0, 25.0):
        store.scrape(*an_engine("r0", running=2.0, finished=finished))
    client.bend = with_value(None, "[300000ms]")
    with pytest.raises(QueryRefused):
        looked(source, store)
    client.bend = BentHttp.bend
    assert looked(source, store).replicas["r0"].running_requests == 2.0


@pytest.mark.parametrize("told", ["NaN", "+Inf"])
def test_a_count_of_series_that_is_no_number_is_no_bug(store: Store, told: str) -> None:
    source, client = bent(store)
    store.scrape(*an_engine("r0", running=2.0))
    client.bend = with_value(told, "count(")
    assert looked(source, store).replicas["r0"].running_requests == 2.0


def test_a_look_up_of_names_that_does_not_end_holds_nothing_up_for_longer_than_a_look(store: Store) -> None:
    store.scrape(*an_engine())
    source, client = bent(store, read_timeout_s=1.0)
    may_answer = Event()

    def held_up(query: str, rows: list[Row]) -> list[Row]:
        if "__name__" in query:
            may_answer.wait(10.0)
        return rows

    client.bend = held_up
    with pytest.raises(ObservationError, match="look-up of metric names is not over after 1 s"):
        looked(source, store)
    may_answer.set()
    assert "r0" in looked(source, store).replicas

    may_answer.clear()  # from here on the names are known
    store.scrape(*an_engine(), *an_engine("r1"))
    assert {"r0", "r1"} <= set(looked(source, store).replicas)
    may_answer.set()


def test_replicas_that_are_scraped_and_say_nothing_known_have_names_looked_up_again_soon(store: Store) -> None:
    """Another engine joins the pool: its names are none of those that matched before."""
    store.scrape(*an_engine())
    source = store.source(probe_interval_s=3600.0)
    looked(source, store)
    for _ in range(41):  # ten minutes: by now names are looked up at ever longer intervals
        store.scrape(*an_engine())
        looked(source, store)
    newcomer = of_pod("r1", [("sglang:num_running_reqs", {"model_name": "m"}, 3.0)])
    seen = []
    for _ in range(5):
        store.scrape(*an_engine(), *newcomer)
        seen.append("r1" in looked(source, store).replicas)
    assert seen[-1]
    assert not seen[0]
