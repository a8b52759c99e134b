"""Which credentials does the plugin give that a kubeconfig names under ``exec``, and for how long do they hold?

The official client runs such a plugin without any limit, wherever credentials are asked for, and goes on without a word
if it fails. Here it runs in the background, for as long and with as much output as is allowed, and before the token
that it gave last is over; a request waits for it no longer than for an answer, and no lock is held meanwhile.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from threading import Lock
from typing import Any

from controller.adapters.kube.bounded_command import Command, CommandFailed, output_of
from controller.adapters.kube.json_reading import entries, flag, text, under
from controller.adapters.kube.shared_work import SharedWork
from controller.redaction import redacted

MOST_BYTES = 1024 * 1024
"""Of output; credentials are a few kilobytes."""

_AHEAD_S = 60.0
_AHEAD_RATIO = 0.5
"""A token is renewed so long before it is over, or when half of its time has passed, if that is later."""

_PAUSE_S = 1.0
"""Between two runs of a plugin: one that fails, or whose token is over at once, is not run all the time."""

_MOST_AUTHORITY_BYTES = 1024 * 1024
_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


class PluginFailed(Exception):
    """No credentials came of a plugin; ``remedy`` says what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a plugin gave: a token, a certificate and its key (PEM), or both; ``expires_at`` in Unix seconds."""

    token: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    given_at: float = 0.0
    expires_at: float = inf


class ExecPlugin:
    """A plugin as a kubeconfig names it. Safe to use from several threads."""

    def __init__(
        self,
        told: Mapping[str, Any],
        cluster: Mapping[str, Any],
        folder: str | None,
        elapsed: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """Take ``exec`` of a user, the cluster, and the folder of the kubeconfig, where paths in it begin.

        Raises:
            PluginFailed: If they are not of the form that such files have.
        """
        self._name, self._version = text(told, "command"), text(told, "apiVersion")
        if not self._name or self._version not in _VERSIONS:
            remedy = f"give it there, in the kubeconfig, a command and an apiVersion of {' or '.join(_VERSIONS)}"
            raise PluginFailed("users[].user.exec names no plugin that can be run", remedy)
        if text(told, "interactiveMode") == "Always":
            raise PluginFailed(f"the plugin {self._name} wants to talk to a person", "use one that does not have to")
        self._hint = redacted(" ".join(text(told, "installHint").split()))
        self._elapsed, self._now = elapsed, now
        arguments = under(told, "args")
        if not isinstance(arguments, list):
            arguments = []
        spec: dict[str, Any] = {"interactive": False}
        if flag(told, "provideClusterInfo"):
            spec["cluster"] = _cluster_info(cluster, folder)
        environment = {text(one, "name"): text(one, "value") for one in entries(told, "env")}
        asked = {"apiVersion": self._version, "kind": "ExecCredential", "spec": spec}
        whole = {**os.environ, **environment, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
        self._command = Command([self._name, *map(str, arguments)], whole, folder or None)

    def run(self, within_s: float, *, with_token: bool = False) -> Credentials:
        """Run it, and return what it gives.

        Raises:
            PluginFailed: If it fails, takes longer, prints too much, or something else than credentials, or a
                certificate where it has to be a token.
        """
        try:
            printed = output_of(self._command, within_s, MOST_BYTES, self._elapsed)
        except CommandFailed as error:
            by_hand = "run it by hand as the user of this process, and log in where it asks for that"
            remedy = self._hint or "install it, or give its whole path" if error.missing else by_hand
            raise self._failed(redacted(str(error)), remedy) from None
        try:
            told = json.loads(printed)
        except (ValueError, RecursionError):
            told = None
        if text(told, "kind") != "ExecCredential" or text(told, "apiVersion") != self._version:
            raise self._failed(f"it prints no ExecCredential of {self._version}", "is it a plugin for credentials?")
        status = under(told, "status")
        token, certificate, key = (text(status, n) for n in ("token", "clientCertificateData", "clientKeyData"))
        if not token and (with_token or not (certificate and key)):
            wanted = "no token as it did before" if with_token else "neither a token nor a certificate with its key"
            raise self._failed(f"it gives {wanted}", "is anybody logged in?")
        return Credentials(token, certificate, key, self._now(), self._expiry(status))

    def _expiry(self, status: object) -> float:
        said = text(status, "expirationTimestamp")
        if not said:
            return inf
        try:
            at = datetime.fromisoformat(said)
        except ValueError:
            raise self._failed("its expirationTimestamp is no instant of RFC 3339", "is it up to date?") from None
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()

    def _failed(self, what: str, remedy: str) -> PluginFailed:
        return PluginFailed(f"the plugin {redacted(self._name)} gives no credentials: {what}", remedy)


class PluginToken:
    """The token of a plugin, renewed before it is over. Safe to use from several threads."""

    def __init__(
        self,
        plugin: ExecPlugin,
        first: Credentials,
        run_s: float,
        elapsed: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """Begin with ``first``; the plugin may run for ``run_s``."""
        self._plugin, self._run_s, self._elapsed, self._now = plugin, run_s, elapsed, now
        self._lock = Lock()
        self._present, self._ended_s = first, elapsed()
        self._failure: PluginFailed | None = None
        self._renewal = SharedWork(self._renew, "credentials")

    def value(self, within_s: float) -> str:
        """Return it, which takes until then at most, and no time as long as the last one holds.

        Raises:
            PluginFailed: If it is over, and no other one comes in time.
        """
        with self._lock:
            present, failure = self._present, self._failure
            rested = self._elapsed() - self._ended_s >= _PAUSE_S
        left_s, lasts_s = present.expires_at - self._now(), present.expires_at - present.given_at
        if left_s > min(_AHEAD_S, lasts_s * _AHEAD_RATIO):
            return present.token
        if left_s > 0:
            if rested:
                self._renewal.begin()
            return present.token
        if not rested:
            if failure is not None:
                raise failure
            return present.token  # whose clock is right is for the server to say
        try:
            return self._renewal.wait(within_s).token
        except TimeoutError:
            what = f"its token is over, and the plugin gave no other one within {within_s:.3g} s"
            raise PluginFailed(what, "is what it asks up, and can it be reached from here?") from None

    def _renew(self) -> Credentials:
        try:
            found = self._plugin.run(self._run_s, with_token=True)
        except PluginFailed as error:
            with self._lock:
                self._ended_s, self._failure = self._elapsed(), error
            raise
        with self._lock:
            self._ended_s, self._failure, self._present = self._elapsed(), None, found
        return found


def _cluster_info(cluster: Mapping[str, Any], folder: str | None) -> dict[str, Any]:
    """Return what a plugin is told of the cluster."""
    names = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
    told = {name: cluster[name] for name in names if name in cluster}
    authority = text(cluster, "certificate-authority")
    if authority and "certificate-authority-data" not in told:
        with Path(folder or "", authority).open("rb") as file:
            told["certificate-authority-data"] = base64.b64encode(file.read(_MOST_AUTHORITY_BYTES)).decode()
    for extension in entries(cluster, "extensions"):
        if text(extension, "name") == "client.authentication.k8s.io/exec":
            told["config"] = under(extension, "extension")
    return told
