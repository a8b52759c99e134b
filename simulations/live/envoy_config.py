"""What is Envoy told: one listener, one cluster per pool, weights and endpoints in files that it watches?

A cluster is called by its pool's key text (``model/pool/role``; in statistics without dots, at which Envoy would cut
it) and an endpoint's host name is its replica's id. Both become labels of Envoy's metrics, of which these matter to the
control loop:

* ``envoy_cluster_endpoint_rq_active{envoy_cluster_name, envoy_endpoint_hostname}``: requests sent to a replica and not
  seen to end (``track_cluster_stats.per_endpoint_stats``). ``rq_success`` beside it is no count of answers: it grows
  when response *headers* come, also from an engine that then hangs.
* ``envoy_gateway_requests_ended{model_name, envoy_cluster_name, envoy_endpoint_address, pod, flags, code}``: requests
  that have ended, by the access logger that counts instead of writing. ``flags="-"`` with a code below 500 is an answer
  as it should be; any other flag says what cut it short (``DC`` the client, ``UPE`` or ``UC`` the engine, ``SI`` a
  time-out, ``UH`` no replica to send it to).
* ``envoy_gateway_requests_started{model_name}``: offered load, counted on arrival whether or not it can be served.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from policies.fleet import PoolKey

HEADER = "x-model"
"""Request header that names the model: Envoy does not read bodies."""

ROUTES = "live"
WHOLE_WEIGHT = 1_000_000
"""Sum of the weights of a route: a share is kept to one part in a million, the range of an HTTPRoute."""

_LIMIT = 100_000  # circuit breakers count for us nothing: what is too much is for the control loop to see
_TYPES = "type.googleapis.com/envoy"


class Health(StrEnum):
    """What Envoy is told of an endpoint: only a healthy one gets new requests, the others keep theirs."""

    HEALTHY = "HEALTHY"
    CORDONED = "UNHEALTHY"
    DRAINING = "DRAINING"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a replica listens on loopback."""

    replica: str
    port: int
    health: Health


@dataclass(frozen=True, slots=True)
class EnvoyPlan:
    """What does not change while Envoy runs.

    Attributes:
        folder: Holds the watched files; a short path of its own.
        pools: Every pool that may ever get traffic.
        port: Of the listener.
        admin_port: Of the admin interface, with ``/stats/prometheus``.
        idle_timeout_s: Longest that a stream may be silent; it must outlast the longest wait in an engine's queue.
    """

    folder: Path
    pools: tuple[PoolKey, ...]
    port: int
    admin_port: int
    idle_timeout_s: float = 300.0

    def endpoints_file(self, pool: PoolKey) -> Path:
        """Return the file with the endpoints of ``pool``."""
        digest = hashlib.sha256(str(pool).encode()).hexdigest()[:12]
        return self.folder / f"endpoints-{digest}.json"

    @property
    def routes_file(self) -> Path:
        """Return the file with the weights."""
        return self.folder / "routes.json"


def bootstrap(plan: EnvoyPlan) -> dict[str, Any]:
    """Return Envoy's static configuration."""
    return {
        "node": {"id": "foresail-live", "cluster": "foresail-live"},
        "admin": {"address": _address(plan.admin_port)},
        "static_resources": {
            "listeners": [_listener(plan)],
            "clusters": [_cluster(plan, pool) for pool in plan.pools],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPES}.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": _LIMIT,
                    },
                }
            ]
        },
    }


def endpoints(pool: PoolKey, members: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the endpoints of one pool, as Envoy's endpoint discovery wants them."""
    listed = [
        {
            "health_status": member.health.value,
            "endpoint": {"hostname": member.replica, "address": _address(member.port)},
        }
        for member in members
    ]
    return {
        "@type": f"{_TYPES}.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": str(pool),
        "endpoints": [{"lb_endpoints": listed}],
    }


def routes(shares: Mapping[str, Mapping[PoolKey, float]]) -> dict[str, Any]:
    """Return the routes: for each model the share of each of its pools, which sum to one.

    What names no known model is answered 404.
    """
    return {
        "@type": f"{_TYPES}.config.route.v3.RouteConfiguration",
        "name": ROUTES,
        "virtual_hosts": [
            {
                "name": ROUTES,
                "domains": ["*"],
                "routes": [_route(model, pools) for model, pools in sorted(shares.items())],
            }
        ],
    }


def discovery_response(version: str, resource: Mapping[str, Any]) -> str:
    """Return the text of a watched file; Envoy reports ``version`` in its statistics once it has taken it."""
    return json.dumps({"version_info": version, "resources": [resource]}, indent=1)


def name_in_statistics(pool: PoolKey) -> str:
    """Return what Envoy's statistics call the cluster of ``pool``: with a dot in it they would be cut there.

    >>> name_in_statistics(PoolKey("llama-3.1-8b", "east"))
    'llama-3_1-8b/east/unified'
    """
    return str(pool).replace(".", "_").replace(":", "_")


def whole_weights(shares: Mapping[PoolKey, float]) -> dict[PoolKey, int]:
    """Return shares as whole weights that sum to ``WHOLE_WEIGHT``; what rounding leaves goes to the largest.

    >>> whole_weights({PoolKey("m", "a"): 2 / 3, PoolKey("m", "b"): 1 / 3})[PoolKey("m", "a")]
    666667
    """
    weights = {key: round(share * WHOLE_WEIGHT) for key, share in shares.items()}
    largest = max(weights, key=lambda key: weights[key])
    weights[largest] += WHOLE_WEIGHT - sum(weights.values())
    return weights


def _route(model: str, pools: Mapping[PoolKey, float]) -> dict[str, Any]:
    clusters = [{"name": str(key), "weight": weight} for key, weight in sorted(whole_weights(pools).items())]
    return {
        "name": model,
        "match": {"prefix": "/", "headers": [_names(model)]},
        "route": {
            "weighted_clusters": {"clusters": clusters},
            "timeout": "0s",  # streams last for minutes; the idle time-out ends those that are stuck
            "retry_policy": {
                # Only what no engine has begun: a prompt that is prefilled twice is load that nobody offered.
                "retry_on": "connect-failure,refused-stream,reset-before-request",
                "num_retries": 2,
                "retry_host_predicate": [
                    {
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": {
                            "@type": f"{_TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                        },
                    }
                ],
                # The choice among hosts is random: with two of which one is dead, half of the tries find it again.
                "host_selection_retry_max_attempts": 20,
            },
        },
    }


def _listener(plan: EnvoyPlan) -> dict[str, Any]:
    idle = f"{plan.idle_timeout_s:g}s"
    connection_manager = {
        "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "codec_type": "AUTO",
        "stream_idle_timeout": idle,
        "access_log_options": {"flush_access_log_on_new_request": True},
        "access_log": _counting_logs(sorted({pool.model for pool in plan.pools})),
        "rds": {"route_config_name": ROUTES, "config_source": _watched(plan.routes_file)},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_TYPES}.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            }
        ],
    }
    chain = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager}]
    return {"name": "gateway", "address": _address(plan.port), "filter_chains": [{"filters": chain}]}


def _counting_logs(models: Sequence[str]) -> list[dict[str, Any]]:
    """Return one access logger for arrivals and one for ends; only known models, so that labels are bounded."""
    model = {"name": "model_name", "value_format": f"%REQ({HEADER})%"}
    ended = [
        model,
        {"name": "envoy_cluster_name", "value_format": "%UPSTREAM_CLUSTER%"},
        {"name": "envoy_endpoint_address", "value_format": "%UPSTREAM_HOST%"},
        {"name": "pod", "value_format": "%UPSTREAM_HOST_NAME%"},
        {"name": "flags", "value_format": "%RESPONSE_FLAGS%"},
        {"name": "code", "value_format": "%RESPONSE_CODE%"},
    ]
    return [
        _counting_log("requests_started", "DownstreamStart", [model], models),
        _counting_log("requests_ended", "DownstreamEnd", ended, models),
    ]


def _counting_log(name: str, moment: str, tags: Sequence[Mapping[str, str]], models: Sequence[str]) -> dict[str, Any]:
    known = [{"header_filter": {"header": _names(model)}} for model in models]
    of_known_model = known[0] if len(known) == 1 else {"or_filter": {"filters": known}}
    return {
        "name": name,
        "filter": {"and_filter": {"filters": [{"log_type_filter": {"types": [moment]}}, of_known_model]}},
        "typed_config": {
            "@type": f"{_TYPES}.extensions.access_loggers.stats.v3.Config",
            "stats_scope": {"prefix": "gateway", "max_counters": _LIMIT},
            "counters": [{"stat": {"name": name, "tags": list(tags)}, "value_fixed": 1}],
        },
    }


def _cluster(plan: EnvoyPlan, pool: PoolKey) -> dict[str, Any]:
    limits = {"max_connections": _LIMIT, "max_pending_requests": _LIMIT, "max_requests": _LIMIT, "max_retries": _LIMIT}
    return {
        "name": str(pool),
        "alt_stat_name": name_in_statistics(pool),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _watched(plan.endpoints_file(pool))},
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        # Never to what is cordoned or draining, also when nothing else is left.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [limits]},
        "track_cluster_stats": {"per_endpoint_stats": True},
    }


def _names(model: str) -> dict[str, Any]:
    return {"name": HEADER, "string_match": {"exact": model}}


def _watched(file: Path) -> dict[str, Any]:
    # The folder is watched, not the file: only a rename in it is taken, never a file half written.
    return {"path_config_source": {"path": str(file), "watched_directory": {"path": str(file.parent)}}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
