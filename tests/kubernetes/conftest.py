"""A namespace of the run's own: on the cluster that KUBECONFIG names, or on an API server of the project's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders_acting import Acting, acting_on
from tests.builders_any_cluster import Hands, Place, any_cluster, own_namespace

HERE = Path(__file__).resolve().parent


def named_cluster(config: pytest.Config) -> str:
    """Return what KUBECONFIG says where this folder was asked for; else empty.

    Many people have it exported, and running all tests is no wish to have them on one's cluster.
    """
    at = config.invocation_params.dir
    asked = [(at / argument.split("::")[0]).resolve() for argument in config.args]
    return os.environ.get("KUBECONFIG", "") if any(path.is_relative_to(HERE) for path in asked) else ""


def pytest_report_header(config: pytest.Config) -> str:
    """Say where tests of Kubernetes run."""
    named = named_cluster(config)
    return f"kubernetes: {f'the cluster of KUBECONFIG={named}' if named else 'an API server of the project'}"


@pytest.fixture(scope="session")
def place(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The namespace, how its cluster is reached, and hands in it."""
    own = tmp_path_factory.mktemp("cluster")
    with (
        any_cluster(named_cluster(pytestconfig), own) as cluster,
        own_namespace(cluster.kubeconfig, cluster.hours) as made,
    ):
        yield made


@pytest.fixture
def foresail(place: Place) -> Iterator[Acting]:
    """Foresail as it acts on the namespace, with its own settings."""
    with acting_on(place) as acting:
        yield acting


@pytest.fixture
def hands(place: Place) -> Hands:
    """Hands in the namespace; each test takes names of its own."""
    return place.hands
