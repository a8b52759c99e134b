"""Which files say how a cluster is reached, and do they say the same as before?"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from controller.adapters.kube.settings import KubernetesSettings

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_MOST_BYTES = 16 * 1024 * 1024


def is_in_cluster(settings: KubernetesSettings) -> bool:
    """Return whether what a pod is given by its cluster says how that is reached."""
    return settings.kubeconfig is None and settings.context is None and SERVICE_ACCOUNT.exists()


def kubeconfig_of(settings: KubernetesSettings) -> str:
    """Return the file that is read, or several with colons between, as ``KUBECONFIG`` names them."""
    from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION

    return str(settings.kubeconfig or KUBE_CONFIG_DEFAULT_LOCATION)


def digest_of(settings: KubernetesSettings) -> str:
    """Return what names the content of the files; empty in a pod, whose token is read anew all the time."""
    if is_in_cluster(settings):
        return ""
    digest = sha256()
    for name in kubeconfig_of(settings).split(":"):
        try:
            with Path(name).expanduser().open("rb") as file:
                digest.update(file.read(_MOST_BYTES))
        except OSError as error:
            digest.update(f"unreadable: {error.errno}".encode())
        digest.update(b"\0")
    return digest.hexdigest()
