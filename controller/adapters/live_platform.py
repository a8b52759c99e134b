"""How does the control loop act on the live stack: ``Cluster`` and ``Router`` over the platform's HTTP API.

The token is read from its file for each call, so that a new one is taken at once, and never shown. What is not answered
is tried again: every verb is idempotent, and asking for the same count or revision twice is asking once. ``restart``
alone is repeated only when no connection was made: after a lost answer the replica may be gone, and that is no failure.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import stamina
from pydantic import BaseModel, ConfigDict, Field, field_validator

from controller.adapters.system_clock import SystemClock
from controller.errors import ActuationError, ObservationError, StalePlan
from controller.redaction import without_credentials
from policies.fleet import NodeState, Phase, PoolKey, PoolState, ReplicaState, Role

MOST_ANSWER_BYTES = 8 * 1024 * 1024
MOST_TOKEN_BYTES = 4096

_T = TypeVar("_T", int, str, bool)
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class PlatformSettings(BaseModel):
    """Where replicas live and how they are reached."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["live"] = Field("live", description="Which platform: live is the stack of `foresail live up`.")
    url: str = Field("http://127.0.0.1:9470", description="Where its API is; loopback only, for it speaks plain HTTP.")
    token_file: Path | None = Field(None, description="File with the bearer token; it is read again for each call.")
    timeout_s: float = Field(
        10.0,
        gt=0,
        le=120,
        description="Longest wait for an answer, in seconds; a verb returns when the gateway has taken the change.",
    )
    engine_token_file: Path | None = Field(
        None,
        description="File with the bearer token that engines want (vLLM's --api-key), for canary requests; it is read "
        "again for each.",
    )
    attempts: int = Field(3, ge=1, le=10, description="Tries of a call that may be repeated.")

    @field_validator("url")
    @classmethod
    def _on_loopback(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("give http://HOST:PORT, without user, query or fragment")
        host = parts.hostname or ""
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ValueError(f"{host or 'no host'} is not this machine: the live platform is reached on loopback only")
        return url.rstrip("/")


class LivePlatform:
    """``Cluster`` and ``Router`` of a live stack. Close it after use."""

    def __init__(self, settings: PlatformSettings, elapsed: Callable[[], float] | None = None) -> None:
        """``elapsed`` are seconds that never go back; the machine's unless said otherwise."""
        self._settings, self._elapsed = settings, elapsed or SystemClock().elapsed
        self._client = httpx.Client(
            base_url=settings.url,
            timeout=settings.timeout_s,
            trust_env=False,  # a proxy has no business on loopback
            follow_redirects=False,
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=2),
        )

    def close(self) -> None:
        """Give up its connections."""
        self._client.close()

    # Cluster

    def pools(self) -> tuple[PoolState, ...]:
        """Return every pool with its replicas, without metrics and weights.

        Raises:
            ObservationError: If the platform does not answer, or not with pools.
        """
        answer = self._observe("/v1/pools")
        if not isinstance(answer, list):
            raise ObservationError("the platform's answer is no list of pools", self._settings.url)
        try:
            pools = tuple(_pool(entry) for entry in answer)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ObservationError(f"the platform's pools cannot be read: {error!r}", self._settings.url) from None
        twice = [str(key) for key, count in Counter(pool.key for pool in pools).items() if count > 1]
        if twice:
            raise ObservationError(f"{', '.join(twice)} is listed twice by the platform", self._settings.url)
        return pools

    def nodes(self) -> Mapping[str, NodeState]:
        """Return none: all replicas share this machine."""
        return {}

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        """Ask for ``replicas``; see ``controller.ports.Cluster.scale``.

        Raises:
            StalePlan: If the pool is not at ``version``.
            ActuationError: If it is refused, or nothing is answered: then it may have happened.
        """
        body = {"replicas": replicas, "version": version, "retire_first": list(retire_first)}
        self._act("PUT", f"{_pool_path(pool)}/scale", body)

    def cordon(self, pool: PoolKey, replica: str) -> None:
        """Send the replica no new requests; raises ActuationError."""
        self._act("POST", f"{_replica_path(pool, replica)}/cordon")

    def uncordon(self, pool: PoolKey, replica: str) -> None:
        """Send it new requests again; raises ActuationError."""
        self._act("POST", f"{_replica_path(pool, replica)}/uncordon")

    def restart(self, pool: PoolKey, replica: str) -> None:
        """Delete the replica; the platform starts another in its place. Raises ActuationError."""
        self._act("POST", f"{_replica_path(pool, replica)}/restart", repeatable=False)

    def roll_back(self, pool: PoolKey, revision: str) -> None:
        """Give the pool's replicas the template of ``revision``; raises ActuationError."""
        self._act("POST", f"{_pool_path(pool)}/rollback", {"revision": revision})

    def pause(self, pool: PoolKey) -> None:
        """Let a rollout of the pool go no further; raises ActuationError."""
        self._act("POST", f"{_pool_path(pool)}/pause")

    def resume(self, pool: PoolKey) -> None:
        """Let the rollout of the pool go on; raises ActuationError."""
        self._act("POST", f"{_pool_path(pool)}/resume")

    def avoid(self, node: str) -> None:
        """Refuse: there is no other node; raises ActuationError."""
        raise ActuationError(f"{node}: the live stack has one machine, nothing can be placed elsewhere", node)

    def stop_avoiding(self, node: str) -> None:
        """Do nothing: no node is ever avoided here."""

    # Router

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        """Return each pool's share of new requests; raises ObservationError."""
        answer = self._observe(_route_path(model))
        try:
            return {PoolKey.parse(name): _share(share) for name, share in answer["weights"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ObservationError(f"the route of {model} cannot be read: {error!r}", self._settings.url) from None

    def set_weights(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        """Replace the shares; raises ActuationError."""
        if not all(map(math.isfinite, weights.values())):  # JSON could not say so
            raise ActuationError(f"weights must be finite: {list(weights.values())}", self._settings.url)
        self._act("PUT", _route_path(model), {"weights": {str(key): weight for key, weight in weights.items()}})

    # HTTP

    def _observe(self, path: str) -> Any:
        try:
            answer = self._call("GET", path, None, repeatable=True)
        except httpx.HTTPError as error:
            raise ObservationError(f"the platform does not answer: {_told(error)}", self._settings.url) from None
        if not answer.is_success:
            raise ObservationError(_refusal(answer), f"{self._settings.url}{path}", self._remedy(answer))
        try:
            return answer.json()
        except (ValueError, RecursionError):
            raise ObservationError("the platform's answer is not JSON", f"{self._settings.url}{path}") from None

    def _act(self, verb: str, path: str, body: object = None, *, repeatable: bool = True) -> None:
        where = f"{self._settings.url}{path}"
        try:
            answer = self._call(verb, path, body, repeatable=repeatable)
        except httpx.HTTPError as error:
            raise ActuationError(f"the platform does not answer: {_told(error)}", where) from None
        except ObservationError as error:  # the token, or an endless answer
            raise ActuationError(error.what, error.where, error.remedy) from None
        if answer.status_code == 409:
            raise StalePlan(_refusal(answer), where)
        if not answer.is_success:
            raise ActuationError(_refusal(answer), where, self._remedy(answer))

    def _call(self, verb: str, path: str, body: object, *, repeatable: bool) -> httpx.Response:
        again = httpx.TransportError if repeatable else _NOT_SENT
        tries = stamina.retry_context(
            on=again,
            attempts=self._settings.attempts,
            timeout=3 * self._settings.timeout_s,
            wait_initial=0.1,
            wait_max=1.0,
        )
        for attempt in tries:
            with attempt:
                return self._once(verb, path, body)
        raise AssertionError("stamina returns or raises")

    def _once(self, verb: str, path: str, body: object) -> httpx.Response:
        with self._client.stream(verb, path, json=body, headers=self._credentials()) as answer:
            content = b""
            end_s = self._elapsed() + self._settings.timeout_s  # of httpx's own, one starts anew with every byte
            for chunk in answer.iter_bytes():
                content += chunk
                if self._elapsed() > end_s:
                    raise httpx.ReadTimeout(f"no whole answer within {self._settings.timeout_s:g} s")
                if len(content) > MOST_ANSWER_BYTES:
                    raise ObservationError(f"an answer of more than {MOST_ANSWER_BYTES} bytes", self._settings.url)
            return httpx.Response(answer.status_code, content=content, request=answer.request)

    def _credentials(self) -> Mapping[str, str]:
        file = self._settings.token_file
        if file is None:
            return {}
        try:
            with file.open("rb") as opened:
                token = opened.read(MOST_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            remedy = "is the live stack up? It writes the file when it starts"
            raise ObservationError(f"the token cannot be read: {reason}", str(file), remedy) from None
        return {"Authorization": f"Bearer {token}"}

    def _remedy(self, answer: httpx.Response) -> str:
        if answer.status_code in (401, 403):
            return f"check platform.token_file ({self._settings.token_file or 'not set'}): is it that of this stack?"
        return ""


def _typed(told: Any, kind: type[_T]) -> _T:
    """Return ``told`` if it is of that type: the text "false" would pass for true."""
    if type(told) is not kind:
        raise ValueError(f"{told!r} instead of {kind.__name__}")
    return told


def _share(told: Any) -> float:
    share = float(told)
    if not 0 <= share < math.inf:
        raise ValueError(f"a share of {share}")
    return share


def _pool(entry: Mapping[str, Any]) -> PoolState:
    return PoolState(
        key=PoolKey(entry["model"], entry["pool"], Role(entry["role"])),
        replicas=tuple(_replica(replica) for replica in entry["replicas"]),
        desired=_typed(entry["desired"], int),
        gpus_per_replica=_typed(entry["gpus_per_replica"], int),
        usd_per_replica_hour=float(entry["usd_per_replica_hour"]),
        version=_typed(entry["version"], int),
        revision=str(entry["revision"]),
        stable_revision=str(entry["stable_revision"]),
        revision_at=math.nan if entry.get("revision_at") is None else float(entry["revision_at"]),
        revisions=tuple(map(str, entry.get("revisions", ()))),
        paused=_typed(entry.get("paused", False), bool),
    )


def _replica(entry: Mapping[str, Any]) -> ReplicaState:
    return ReplicaState(
        id=_typed(entry["id"] or None, str),
        phase=Phase(entry["phase"]),
        requested_at=float(entry["requested_at"]),
        since_at=float(entry["since_at"]),
        revision=str(entry["revision"]),
        node=str(entry["node"]),
        restarts=_typed(entry["restarts"], int),
        cordoned=_typed(entry["cordoned"], bool),
        exit_reason=str(entry.get("exit_reason", "")),
        waiting_reason=str(entry.get("waiting_reason", "")),
        address=str(entry.get("address", "")),
    )


def _pool_path(pool: PoolKey) -> str:
    return f"/v1/pools/{quote(str(pool), safe='')}"


def _replica_path(pool: PoolKey, replica: str) -> str:
    return f"{_pool_path(pool)}/replicas/{quote(replica, safe='')}"


def _route_path(model: str) -> str:
    return f"/v1/routes/{quote(model, safe='')}"


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def _refusal(answer: httpx.Response) -> str:
    try:
        said = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        said = answer.text
    said = without_credentials(said, answer.request.headers.get("Authorization", ""))
    return f"HTTP {answer.status_code}: {said[:500]}"
