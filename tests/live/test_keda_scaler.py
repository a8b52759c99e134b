"""Does KEDA get the published figure by real gRPC, an error where there is none, and streams within their bound?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

grpc = pytest.importorskip("grpc", reason="the extra foresail[keda] is not installed")

from controller.adapters.keda_messages import (  # noqa: E402 - what needs the extra
    SERVICE,
    GetMetricSpecResponse,
    GetMetricsRequest,
    GetMetricsResponse,
    IsActiveResponse,
    ScaledObjectRef,
)
from controller.adapters.keda_scaler import MAX_CALLS, MAX_MESSAGE_BYTES, METRIC, KedaScaler  # noqa: E402
from controller.bootstrap import keda_scaler  # noqa: E402
from controller.errors import BadInput  # noqa: E402
from controller.keda_settings import KedaSettings  # noqa: E402
from controller.ports import TickRecord  # noqa: E402
from controller.settings import Settings  # noqa: E402
from controller.telemetry import Telemetry  # noqa: E402
from controller.telemetry_settings import TelemetrySettings  # noqa: E402
from policies.decisions import ScalingPlan  # noqa: E402
from policies.placement import PoolSettings  # noqa: E402
from policies.settings import PolicySettings  # noqa: E402
from tests.builders_prometheus import wait_until  # noqa: E402
from tests.builders_records import POOL, SPARE, decision_of, fleet_of, quiet_tick, scaling_tick  # noqa: E402
from tests.live.daemon_world import MODEL, world_process  # noqa: E402
from tests.live.test_daemon import running, settings_text, wait_for  # noqa: E402

WITHIN_S = 20.0
LIMIT = 64
PUBLISHED = TelemetrySettings(namespace="serving", variants={str(POOL): "llama"}, publish_for_s=300.0)
PROFILE = "llama-3.1-70b-a100-tp4"
POLICY = PolicySettings(pools={str(key): PoolSettings(profile=PROFILE) for key in (POOL, SPARE)})  # type: ignore[arg-type]
BY_NAME = {"name": "llama", "namespace": "serving"}
BY_POOL = {"name": "any", "namespace": "elsewhere", "scalerMetadata": {"pool": str(POOL), "scalerAddress": "x:1"}}
OF_SPARE = {"name": "any", "namespace": "elsewhere", "scalerMetadata": {"pool": str(SPARE)}}


@dataclass
class Asked:
    """A server over the real telemetry of a daemon, and a client as KEDA is one."""

    leads: bool = True
    now_s: float = 1000.0
    scaler: KedaScaler = field(init=False)

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(PUBLISHED, lambda: self.now_s)
        self.telemetry.configure(PUBLISHED, POLICY)
        settings = KedaSettings(address="127.0.0.1:0")
        self.scaler = KedaScaler(settings, self.telemetry.recommended, lambda: self.leads, LIMIT)
        self.channel = grpc.insecure_channel(self.scaler.address, (("grpc.initial_reconnect_backoff_ms", 100),))

    def tick(self, record: TickRecord) -> None:
        self.telemetry.tick_ended(record, "acted", 0.2, 0)

    def call(self, method: str, answer: Any, asked: Any) -> Any:
        return self.channel.unary_unary(f"/{SERVICE}/{method}", type(asked).SerializeToString, answer.FromString)(
            asked, timeout=WITHIN_S
        )

    def active(self, ref: dict[str, Any]) -> bool:
        return bool(self.call("IsActive", IsActiveResponse, ScaledObjectRef(**ref)).result)

    def spec(self, ref: dict[str, Any]) -> list[tuple[str, int, float]]:
        found = self.call("GetMetricSpec", GetMetricSpecResponse, ScaledObjectRef(**ref)).metricSpecs
        return [(one.metricName, one.targetSize, one.targetSizeFloat) for one in found]

    def figures(self, ref: dict[str, Any], metric: str = METRIC) -> list[tuple[str, int, float]]:
        request = GetMetricsRequest(scaledObjectRef=ref, metricName=metric)
        found = self.call("GetMetrics", GetMetricsResponse, request).metricValues
        return [(one.metricName, one.metricValue, one.metricValueFloat) for one in found]

    def stream(self, ref: dict[str, Any]) -> Any:
        method = f"/{SERVICE}/StreamIsActive"
        opened = self.channel.unary_stream(method, ScaledObjectRef.SerializeToString, IsActiveResponse.FromString)
        return opened(ScaledObjectRef(**ref), timeout=WITHIN_S)


@pytest.fixture
def asked() -> Iterator[Asked]:
    made = Asked()
    made.scaler.start()
    yield made
    made.channel.close()
    made.scaler.stop()


def first_of(stream: Any) -> Any:
    """Return what a stream says first, or the code that it is refused with."""
    try:
        return next(stream).result
    except grpc.RpcError as refused:
        return refused.code()


def code_of(refused: pytest.ExceptionInfo[Any]) -> Any:
    return refused.value.code()


def test_messages_have_the_bytes_that_keda_s_definition_gives_them() -> None:
    """Worked out by hand: a tag is the number times 8 plus the wire type, and a map is repeated pairs."""
    ref = ScaledObjectRef(name="a", namespace="b", scalerMetadata={"k": "v"})
    assert ref.SerializeToString() == b"\x0a\x01a\x12\x01b\x1a\x06\x0a\x01k\x12\x01v"
    assert IsActiveResponse(result=True).SerializeToString() == b"\x08\x01"
    spec = GetMetricSpecResponse(metricSpecs=[{"metricName": "m", "targetSize": 1, "targetSizeFloat": 1.0}])
    one = b"\x19\x00\x00\x00\x00\x00\x00\xf0\x3f"
    assert spec.SerializeToString() == b"\x0a\x0e\x0a\x01m\x10\x01" + one
    request = GetMetricsRequest(scaledObjectRef={"name": "a"}, metricName="m")
    assert request.SerializeToString() == b"\x0a\x03\x0a\x01a\x12\x01m"
    got = GetMetricsResponse(metricValues=[{"metricName": "m", "metricValue": 1, "metricValueFloat": 1.0}])
    assert got.SerializeToString() == spec.SerializeToString()


def test_a_pull_gets_what_is_published_by_the_pool_or_the_name_of_the_target(asked: Asked) -> None:
    asked.tick(scaling_tick(60.0))
    published = asked.telemetry.registry.get_sample_value(
        "wva_desired_replicas", {"variant_name": "llama", "namespace": "serving", "accelerator_type": "A100"}
    )
    for ref in (BY_POOL, BY_NAME):
        assert asked.figures(ref) == [(METRIC, published, published)]
        assert asked.spec(ref) == [(METRIC, 1, 1.0)]
        assert asked.active(ref)
    assert (asked.figures(OF_SPARE), asked.active(OF_SPARE)) == ([(METRIC, 0, 0.0)], False)


def test_a_push_comes_at_once_and_when_the_answer_changes(asked: Asked) -> None:
    asked.tick(scaling_tick(60.0))
    stream = asked.stream(OF_SPARE)
    assert next(stream).result is False
    decision = decision_of(120.0, 2, (ScalingPlan(SPARE, 0, 2, 1),))
    asked.tick(TickRecord(120.0, fleet_of(120.0), {}, decision))
    assert next(stream).result is True
    asked.tick(quiet_tick(180.0))
    assert next(stream).result is False
    stream.cancel()


def test_an_old_or_missing_figure_is_no_number(asked: Asked) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        asked.figures(BY_POOL)
    assert code_of(refused) is grpc.StatusCode.UNAVAILABLE
    asked.tick(scaling_tick(60.0))
    stream = asked.stream(BY_POOL)
    assert next(stream).result is True
    asked.now_s += PUBLISHED.publish_for_s + 1.0
    for ask in (asked.figures, asked.active, lambda _: next(stream)):
        with pytest.raises(grpc.RpcError) as refused:
            ask(BY_POOL)
        assert code_of(refused) is grpc.StatusCode.UNAVAILABLE
    assert asked.spec(BY_POOL) == [(METRIC, 1, 1.0)]  # an HPA without its metric would be made anew
    asked.tick(quiet_tick(120.0))
    assert asked.active(BY_POOL)


def test_who_lost_the_lease_gives_no_number(asked: Asked) -> None:
    asked.tick(scaling_tick(60.0))
    asked.leads = False
    for ask in (asked.figures, asked.active, lambda ref: next(asked.stream(ref))):
        with pytest.raises(grpc.RpcError) as refused:
            ask(BY_POOL)
        assert code_of(refused) is grpc.StatusCode.UNAVAILABLE


def test_a_standby_does_not_listen_until_it_leads() -> None:
    standby = Asked()
    standby.tick(scaling_tick(60.0))
    with pytest.raises(grpc.RpcError) as refused:
        standby.figures(BY_POOL)
    assert code_of(refused) is grpc.StatusCode.UNAVAILABLE
    standby.scaler.start()

    def answered() -> bool:
        try:
            return standby.active(BY_POOL)
        except grpc.RpcError:
            return False

    wait_until(answered, "an answer")
    standby.channel.close()
    standby.scaler.stop()


def test_of_the_addresses_of_a_headless_service_the_one_that_leads_answers(asked: Asked) -> None:
    """A standby has the port and does not listen: gRPC is refused there and tries the next address."""
    asked.tick(scaling_tick(1000.0))
    standby = KedaScaler(KedaSettings(address="127.0.0.1:0"), asked.telemetry.recommended, lambda: False)
    try:
        for order in ((standby, asked.scaler), (asked.scaler, standby)):
            target = "ipv4:" + ",".join(one.address for one in order)
            with grpc.insecure_channel(target) as asked.channel:
                assert asked.active(BY_NAME)
    finally:
        standby.stop()


def test_who_is_not_known_is_told_so(asked: Asked) -> None:
    asked.tick(scaling_tick(60.0))
    unknown = {"scalerMetadata": {"pool": "no/such/unified"}}, {"name": "llama", "namespace": "other"}, {}
    for ref in unknown:
        for ask in (asked.figures, asked.active, asked.spec, lambda ref: next(asked.stream(ref))):
            with pytest.raises(grpc.RpcError) as refused:
                ask(ref)
            assert code_of(refused) is grpc.StatusCode.NOT_FOUND
            assert "policy.pools" in refused.value.details()
    with pytest.raises(grpc.RpcError) as refused:
        asked.figures(BY_POOL, "another")
    assert code_of(refused) is grpc.StatusCode.INVALID_ARGUMENT


def test_streams_are_bounded_and_leave_room_for_pulls(asked: Asked) -> None:
    asked.tick(scaling_tick(60.0))
    streams = [asked.stream(BY_POOL) for _ in range(100)]
    answers = [first_of(stream) for stream in streams]
    assert answers.count(True) == LIMIT
    assert answers.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 100 - LIMIT
    assert all(asked.active(BY_POOL) for _ in range(MAX_CALLS))
    for stream in streams:
        stream.cancel()
    wait_until(lambda: first_of(asked.stream(BY_POOL)) is True, "room for a stream")


def test_a_message_that_is_too_long_is_refused(asked: Asked) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        asked.active({"name": "x" * MAX_MESSAGE_BYTES})
    assert code_of(refused) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_end_ends_streams_and_frees_the_address(asked: Asked) -> None:
    asked.tick(scaling_tick(60.0))
    stream = asked.stream(BY_POOL)
    assert next(stream).result is True
    with pytest.raises(BadInput, match="keda address cannot be bound") as taken:
        KedaScaler(KedaSettings(address=asked.scaler.address), asked.telemetry.recommended, lambda: True)
    assert "daemon.keda.address" in taken.value.remedy
    asked.scaler.stop()
    assert list(stream) == []
    KedaScaler(KedaSettings(address=asked.scaler.address), asked.telemetry.recommended, lambda: True).stop()


def test_without_the_extra_the_remedy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "controller.adapters.keda_scaler")
    monkeypatch.setitem(sys.modules, "grpc", None)
    telemetry = Telemetry(PUBLISHED, lambda: 0.0)
    assert keda_scaler(Settings(), telemetry.recommended, lambda: True) is None
    with pytest.raises(BadInput, match="grpc is not installed") as missing:
        keda_scaler(Settings.model_validate({"daemon": {"keda": {}}}), telemetry.recommended, lambda: True)
    assert missing.value.remedy == "pip install 'foresail[keda]'"


def test_loopback_is_bound_unless_public_is_said() -> None:
    with pytest.raises(ValidationError, match="can be reached from outside"):
        KedaSettings(address="0.0.0.0:9465")
    assert KedaSettings(address="0.0.0.0:9465", public=True).public


def test_a_daemon_answers_with_what_it_decided(tmp_path: Path) -> None:
    text = settings_text(tmp_path, daemon='  keda: {address: "127.0.0.1:0"}', modes="{scaling: recommend}")
    with world_process([5.0] * 3000) as world, running(tmp_path, world, text) as daemon:
        wait_for(lambda: daemon.told("answering KEDA"), "address for KEDA")
        wait_for(lambda: daemon.metric("foresail_desired_replicas") > 0, "decision")
        (told,) = daemon.told("answering KEDA")
        with grpc.insecure_channel(told["address"]) as channel:
            ask = channel.unary_unary(
                f"/{SERVICE}/GetMetrics", GetMetricsRequest.SerializeToString, GetMetricsResponse.FromString
            )
            ref = {"scalerMetadata": {"pool": f"{MODEL}/l40s/unified"}}
            request = GetMetricsRequest(scaledObjectRef=ref, metricName=METRIC)

            def the_same() -> bool:
                got = ask(request, timeout=WITHIN_S).metricValues[0].metricValue
                return bool(got == daemon.metric("foresail_desired_replicas") > 0)

            wait_for(the_same, "figure that is published")
        assert daemon.stop() == 0
