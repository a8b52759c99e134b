"""Is a cluster in which nothing runs yet read as such, and not taken for one that cannot be read?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.system_clock import SystemClock
from simulations.kubernetes_api.running import running_api
from tests.builders_kube_api import Fleet, settings_for


def test_where_nothing_is_there_there_are_no_pools(tmp_path: Path) -> None:
    """Of ReplicaSets metadata alone is asked for: a server answers null where there are none."""
    with running_api() as api:
        Fleet(api)
        settings = settings_for(api, tmp_path, kinds=("Deployment", "StatefulSet"))
        view = KubernetesView(settings, SystemClock().elapsed, np.random.default_rng(0))
        view.start()
        try:
            assert view.pools() == ()
            assert view.notes() == ()
        finally:
            view.close()
