"""Where is the API server, and as whom is it asked? Read by the official client from kubeconfig or service account."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from urllib3 import PoolManager, ProxyManager
from yaml import YAMLError

from controller.adapters.answer_deadline import pools_with_deadline
from controller.adapters.kube.settings import KubernetesSettings
from controller.errors import ObservationError
from controller.redaction import redacted

if TYPE_CHECKING:
    from kubernetes.client import Configuration

_log = structlog.get_logger(__name__)

_TOLD = 300
_CONNECTIONS = 64
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class Reach:
    """One reading of how the API is reached; safe to use from several threads.

    Attributes:
        pool: Connections, whose read time-outs hold for whole answers.
    """

    def __init__(self, settings: KubernetesSettings, elapsed: Callable[[], float]) -> None:
        """Read it now; ``elapsed`` are seconds that never go back.

        Raises:
            ObservationError: If it cannot be told how the API is reached.
        """
        from kubernetes import client

        self._settings, self._lock = settings, Lock()
        self._known = _configuration(settings)
        host = str(self._known.host)
        if urlsplit(host).scheme != "https" and not _is_loopback(urlsplit(host).hostname or ""):
            raise _unknown(settings, ValueError(f"{redacted(host)} is not https, and not this machine"))
        try:
            self.pool: PoolManager = client.ApiClient(self._known).rest_client.pool_manager
        except Exception as error:  # noqa: BLE001 - a certificate, proxy or address of any form
            raise _unknown(settings, error) from None
        if type(self.pool) in (PoolManager, ProxyManager):  # a SOCKS proxy brings connections of its own
            self.pool.pool_classes_by_scheme = pools_with_deadline(elapsed, verified=self.is_verified)
        if not self.is_verified:
            _log.warning("the certificate of the API server is not checked, as the kubeconfig says", server=self.server)

    @property
    def is_verified(self) -> bool:
        """Whether it is checked that the server is who it says it is; loopback without TLS needs no proof."""
        return bool(self._known.verify_ssl) or not self.url.startswith("https:")

    @property
    def url(self) -> str:
        """Where paths of the API begin."""
        return str(self._known.host).rstrip("/")

    @property
    def server(self) -> str:
        """The address of the server, for people."""
        return redacted(self.url)

    def identity(self) -> Mapping[str, str]:
        """Return headers that say who asks; a token that is about to expire is renewed first.

        Raises:
            ObservationError: If that cannot be done.
        """
        with self._lock:  # it may run a plugin, or read a file, for all of us
            try:
                known = self._known.auth_settings().get("BearerToken")
            except Exception as error:  # noqa: BLE001 - plugins raise whatever they like
                raise _unknown(self._settings, error) from None
        value = str((known["value"] if known else None) or "").strip()
        if not value.isprintable() or not value.isascii():
            raise _unknown(self._settings, ValueError("a token that is no line of text"))
        return {"Authorization": value} if value else {}


def _configuration(settings: KubernetesSettings) -> Configuration:
    from kubernetes import client, config

    known = client.Configuration()
    try:
        if settings.kubeconfig is None and settings.context is None and _SERVICE_ACCOUNT.exists():
            config.load_incluster_config(client_configuration=known)
        else:
            file = str(settings.kubeconfig) if settings.kubeconfig else None
            config.load_kube_config(file, settings.context, known, persist_config=False)
    except Exception as error:  # noqa: BLE001 - the file may say anything, and plugins raise whatever they like
        raise _unknown(settings, error) from None
    if urlsplit(str(known.host)).scheme == "https" and not (known.api_key or known.cert_file or known.username):
        # A plugin that fails leaves no more than a line in the log of the client.
        raise _unknown(settings, ValueError("no credentials came of it; does the plugin that it names work?"))
    known.connection_pool_maxsize = _CONNECTIONS
    known.keep_alive = True
    return known


def _unknown(settings: KubernetesSettings, error: Exception) -> ObservationError:
    told = redacted(" ".join(str(error).split()))[:_TOLD] or type(error).__name__
    if isinstance(error, YAMLError):  # its words may quote the file, tokens and all
        told = "the kubeconfig is no YAML"
    return ObservationError(
        f"it cannot be told how the API server is reached: {told}",
        str(settings.kubeconfig or "platform"),
        "check platform.kubeconfig and platform.context, or the service account of the pod",
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
