"""Where is the API server, and as whom is it asked? Read by the official client from kubeconfig or service account.

Nothing of it holds anybody up for long: a plugin of the kubeconfig has a time of its own to run, and what the client
asks others for, as it does for an ``auth-provider``, is waited for no longer than a request can.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog
from urllib3 import PoolManager, ProxyManager
from yaml import YAMLError

from controller.adapters.answer_deadline import pools_with_deadline
from controller.adapters.kube.exec_plugin import Credentials, ExecPlugin, PluginFailed, PluginToken
from controller.adapters.kube.kubeconfig_files import is_in_cluster, kubeconfig_of
from controller.adapters.kube.questions import NoWay
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.kube.shared_work import SharedWork
from controller.adapters.system_clock import SystemClock
from controller.redaction import redacted

if TYPE_CHECKING:
    from kubernetes.client import Configuration

_log = structlog.get_logger(__name__)

_TOLD = 300
_CONNECTIONS = 64
_REMEDY = "check platform.kubeconfig and platform.context, or the service account of the pod"


class Reach:
    """One reading of how the API is reached; safe to use from several threads.

    Attributes:
        pool: Connections, whose read time-outs hold for whole answers.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        elapsed: Callable[[], float],
        now: Callable[[], float] | None = None,
    ) -> None:
        """Read it now; ``elapsed`` are seconds that never go back.

        Credentials expire by ``now``, seconds since the epoch: those of the machine unless said otherwise.

        Raises:
            NoWay: If it cannot be told how the API is reached.
        """
        from kubernetes import client

        self._settings, self._lock = settings, Lock()
        self._known, self._token, waits = _Reading(settings, elapsed, now or SystemClock().now).whole()
        self._asked = SharedWork(self._by_client, "credentials") if waits else None
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

    def identity(self, within_s: float | None = None) -> Mapping[str, str]:
        """Return headers that say who asks, after ``within_s`` at the latest; a token that expires soon is renewed.

        Raises:
            NoWay: If that cannot be done.
        """
        within_s = self._settings.exec_timeout_s if within_s is None else within_s
        try:
            value = self._value(within_s).strip()
        except TimeoutError:
            raise _late(self._settings, within_s) from None
        except Exception as error:  # noqa: BLE001 - what the client asks raises whatever it likes
            raise _unknown(self._settings, error) from None
        if not value.isprintable() or not value.isascii():
            raise _unknown(self._settings, ValueError("a token that is no line of text"))
        return {"Authorization": value} if value else {}

    def _value(self, within_s: float) -> str:
        if self._token is not None:
            return f"Bearer {self._token.value(within_s)}"
        return self._by_client() if self._asked is None else self._asked.wait(within_s)

    def _by_client(self) -> str:
        with self._lock:  # it may read a file for all of us
            known = self._known.auth_settings().get("BearerToken")
        return str((known["value"] if known else None) or "")


class _Reading:
    """Reads a kubeconfig, or what a pod is given, once."""

    def __init__(self, settings: KubernetesSettings, elapsed: Callable[[], float], now: Callable[[], float]) -> None:
        self._settings, self._elapsed, self._now = settings, elapsed, now

    def whole(self) -> tuple[Configuration, PluginToken | None, bool]:
        """Return how the API is reached, a plugin's token, and whether others are asked for credentials.

        Raises:
            NoWay: If that cannot be told.
        """
        from kubernetes import client

        known = client.Configuration()
        try:
            token, waits = self._read(known)
        except TimeoutError:
            raise _late(self._settings, self._settings.exec_timeout_s) from None
        except Exception as error:  # noqa: BLE001 - the file may say anything, and plugins raise whatever they like
            raise _unknown(self._settings, error) from None
        if urlsplit(str(known.host)).scheme == "https" and not (known.api_key or known.cert_file or known.username):
            raise _unknown(self._settings, ValueError("no credentials came of it"))
        known.connection_pool_maxsize = _CONNECTIONS
        known.keep_alive = True
        return known, token, waits

    def _read(self, known: Configuration) -> tuple[PluginToken | None, bool]:
        from kubernetes import config
        from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger

        if is_in_cluster(self._settings):
            config.load_incluster_config(client_configuration=known)
            return None, False
        merged = KubeConfigMerger(kubeconfig_of(self._settings)).config
        if merged is None:
            raise ValueError("there is no such file, or nothing in it")
        loader = KubeConfigLoader(merged, self._settings.context, config_base_path=None)
        context = loader.current_context["context"]
        name = context.get("user")
        found = merged["users"].get_with_name(name, safe=True) if name and merged.safe_get("users") else None
        user: dict[str, Any] = found["user"].value if found is not None and found.safe_get("user") else {}
        cluster = merged["clusters"].get_with_name(context["cluster"])
        token = self._of_plugin(user, cluster["cluster"].value, found.path if found is not None else None)
        if "auth-provider" not in user:
            loader.load_and_set(known)
            return token, False
        # Nobody knows how long those take who are asked then.
        SharedWork(lambda: loader.load_and_set(known), "credentials").wait(self._settings.exec_timeout_s)
        return token, True

    def _of_plugin(self, user: dict[str, Any], cluster: Mapping[str, Any], file: str | None) -> PluginToken | None:
        """Run the plugin of a user, if it is what the user is known by; let what it gives stand in its place."""
        if "exec" not in user or {"auth-provider", "token", "tokenFile"} & user.keys():
            return None
        folder = str(Path(file).resolve().parent) if file else None
        plugin = ExecPlugin(user.pop("exec"), cluster, folder, self._elapsed, self._now)
        run_s = self._settings.exec_timeout_s
        given = plugin.run(run_s)
        user |= _as_user(given)
        return PluginToken(plugin, given, run_s, self._elapsed, self._now) if given.token else None


def _as_user(given: Credentials) -> dict[str, str]:
    """Return credentials as a kubeconfig has them."""
    told = {"token": given.token} if given.token else {}
    if given.certificate and given.key:
        told["client-certificate-data"] = base64.b64encode(given.certificate.encode()).decode()
        told["client-key-data"] = base64.b64encode(given.key.encode()).decode()
    return told


def _late(settings: KubernetesSettings, within_s: float) -> NoWay:
    return NoWay(
        f"it cannot be told how the API server is reached: no credentials within {within_s:.3g} s",
        str(settings.kubeconfig or "platform"),
        "is what the auth-provider of the kubeconfig asks up? A plugin under exec has a limit of its own",
    )


def _unknown(settings: KubernetesSettings, error: Exception) -> NoWay:
    told = redacted(" ".join(str(error).split()))[:_TOLD] or type(error).__name__
    if isinstance(error, YAMLError):  # its words may quote the file, tokens and all
        told = "the kubeconfig is no YAML"
    remedy = error.remedy if isinstance(error, PluginFailed) else _REMEDY
    return NoWay(
        f"it cannot be told how the API server is reached: {told}", str(settings.kubeconfig or "platform"), remedy
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
