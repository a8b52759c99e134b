"""Do the figures of a cluster show what a failing API server does to its watches?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.health import Health, figures_of
from controller.adapters.kube.kinds import PODS, SCALED_OBJECTS, Resource
from controller.adapters.kube.pods import Pod, read_pod
from controller.adapters.kube.reflector import Reflector, Surroundings
from controller.adapters.system_clock import SystemClock
from controller.platforms import open_platform
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_kube_api import Fleet, settings_for

READ_POD = partial(read_pod, gpu_resources=frozenset())


LONG_S = 5000.0
"""Beside it the seconds that a test takes are none."""


class Clock:
    """Seconds that pass as they do, and when they are told to."""

    def __init__(self) -> None:
        self.at_s, self._began_s = 100.0, SystemClock().elapsed()

    def __call__(self) -> float:
        return self.at_s + SystemClock().elapsed() - self._began_s


@pytest.fixture(name="api")
def _api() -> Iterator[RunningApi]:
    with running_api(bookmark_every_s=0.05) as api:
        Fleet(api).deployment()
        yield api


def _reflector(
    api: RunningApi, folder: Path, clock: Clock, namespace: str = "prod", of: Resource = PODS
) -> Reflector[Pod]:
    settings = settings_for(api, folder, watch_s=1)
    around = Surroundings(KubernetesApi(settings, clock), settings, clock)
    return Reflector(around, of, namespace, READ_POD, np.random.default_rng(7))


def test_a_kind_is_as_old_as_its_quietest_namespace(api: RunningApi, tmp_path: Path) -> None:
    clock = Clock()
    heard, silent = (_reflector(api, tmp_path, clock, namespace) for namespace in ("prod", "batch"))
    clock.at_s += LONG_S
    heard.round()
    answers = heard._api.answers
    (watch,) = figures_of([("", Health(answers, (heard, silent)))], {}).watches
    assert (watch.resource, watch.lists, watch.failures) == ("pods", 1, 0)
    assert LONG_S <= watch.age_s < 1.1 * LONG_S
    (watch,) = figures_of([("", Health(answers, (heard,)))], {}).watches
    assert watch.age_s < 0.1 * LONG_S


def test_every_answer_is_counted_by_verb_and_code_and_a_failed_round_once(api: RunningApi, tmp_path: Path) -> None:
    reflector = _reflector(api, tmp_path, Clock())
    reflector.round()
    assert reflector._api.answers.told() == {("list", "2xx"): 1, ("watch", "2xx"): 1}
    api.fault(Fault(code=503, verbs=("watch",), times=2))
    reflector.round(), reflector.round()
    figures = figures_of([("east", Health(reflector._api.answers, (reflector,)))], {"told": 1})
    assert figures.answers[("east", "watch", "503")] == 2
    assert figures.watches[0].failures == 2
    assert figures.events == {"told": 1}


def test_a_kind_that_is_not_installed_is_no_watch_that_is_stale(api: RunningApi, tmp_path: Path) -> None:
    clock = Clock()
    reflector = _reflector(api, tmp_path, clock, of=Resource("example.com", "v1", "nothings", "Nothing"))
    reflector.round()
    clock.at_s += LONG_S
    assert reflector.store.age_s >= LONG_S


def test_a_server_that_is_gone_is_no_answer_and_lets_the_watch_grow_old(api: RunningApi, tmp_path: Path) -> None:
    clock = Clock()
    reflector = _reflector(api, tmp_path, clock)
    reflector.round()
    api.fault(Fault(reset=True))
    clock.at_s += LONG_S
    reflector.round()
    figures = figures_of([("", Health(reflector._api.answers, (reflector,)))], {})
    assert any(code == "none" for _, _, code in figures.answers)
    assert figures.watches[0].age_s >= LONG_S


def test_the_platform_of_the_daemon_tells_of_all_that_it_watches(api: RunningApi, tmp_path: Path) -> None:
    platform = open_platform(settings_for(api, tmp_path))
    try:
        figures = platform.figures()
    finally:
        platform.close()
    resources = {watch.resource for watch in figures.watches}
    assert {"pods", "deployments.apps", "replicasets.apps"} <= resources
    assert len(resources) == len(figures.watches)
    assert figures.answers["", "list", "2xx"] >= len(resources) - 1
    assert set(figures.events) == {"told", "refused", "dropped"}
    assert SCALED_OBJECTS.title not in resources
