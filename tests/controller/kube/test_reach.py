"""Is whatever a kubeconfig and the plugins that it names come up with told as what it is: no way to the cluster?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from controller.adapters.kube.reach import Reach
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from controller.errors import ObservationError
from simulations.kubernetes_api.kubeconfig import kubeconfig

NOBODY = "https://127.0.0.1:1"


def _asked_at(issuer: str) -> str:
    """Return a kubeconfig whose token is over, and is to be renewed at ``issuer``."""
    config = {
        "id-token": "e30.eyJleHAiOjF9.x",
        "refresh-token": "r",
        "client-id": "c",
        "client-secret": "s",
        "idp-issuer-url": issuer,
    }
    user = {"auth-provider": {"name": "oidc", "config": config}}
    return yaml.safe_dump({**kubeconfig(NOBODY), "users": [{"name": "simulated", "user": user}]})


@pytest.mark.parametrize("content", ["[" * 5000, _asked_at(NOBODY), _asked_at("no address")])
def test_what_nobody_foresaw_is_told_as_well(content: str, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(content)
    with pytest.raises(ObservationError, match="cannot be told how the API server is reached") as caught:
        Reach(KubernetesSettings(kubeconfig=file), SystemClock().elapsed)
    assert caught.value.where == str(file)
