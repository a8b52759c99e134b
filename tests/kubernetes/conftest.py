"""A namespace of the run's own: on the cluster that KUBECONFIG names, or on an API server of the project's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builders_any_cluster import Hands, Place, any_cluster, named_cluster, own_namespace


def pytest_report_header() -> str:
    """Say where tests of Kubernetes run."""
    where = f"the cluster of KUBECONFIG={named_cluster()}" if named_cluster() else "the project's own API server"
    return f"kubernetes: {where}"


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The namespace, how its cluster is reached, and hands in it."""
    with any_cluster(tmp_path_factory.mktemp("cluster")) as kubeconfig, own_namespace(kubeconfig) as made:
        yield made


@pytest.fixture
def hands(place: Place) -> Hands:
    """Hands in the namespace; each test takes names of its own."""
    return place.hands
