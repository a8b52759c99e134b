"""With which configuration does a client reach the API server?"""

from __future__ import annotations

from pathlib import Path

import yaml

from simulations.kubernetes_api.refusals import Json


def kubeconfig(url: str, token: str = "", namespace: str = "default", context: str = "simulated") -> Json:
    """Return a kubeconfig with one context, for clients and ``kubectl``; without a token, nobody is asked for one."""
    user: Json = {"token": token} if token else {}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [{"name": context, "cluster": {"server": url}}],
        "users": [{"name": context, "user": user}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context, "namespace": namespace}}],
    }


def write_kubeconfig(path: Path, config: Json) -> Path:
    """Write a kubeconfig that only its owner can read, and return its path."""
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path
