"""In which namespaces does Foresail itself run, where it acts on nothing that is not labelled for it?"""

from __future__ import annotations

import os
from pathlib import Path

from controller.adapters.kube.settings import KubernetesSettings

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespaces(settings: KubernetesSettings) -> frozenset[str]:
    """Return them: that of its lease, and what the cluster tells the pod that we are; none outside of a cluster."""
    try:
        told = _NAMESPACE_FILE.read_text("utf-8").strip()
    except (OSError, ValueError):
        told = ""
    lease = settings.lease.namespace if settings.lease else ""
    return frozenset(filter(None, (os.environ.get("POD_NAMESPACE", ""), told, lease)))
