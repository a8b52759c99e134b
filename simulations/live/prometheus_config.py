"""What does Prometheus scrape: engines from a file that the platform writes, Envoy, and the daemon?

Whatever a target says of itself, ``pod``, ``pool`` and ``model_name`` are what the platform knows it as: a label of the
same name from the target is kept as ``exported_...`` (``honor_labels: false``). Envoy's series get these labels from
its names for clusters and hosts (see ``envoy_config``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.fleet import PoolKey
from simulations.live.envoy_config import name_in_statistics


@dataclass(frozen=True, slots=True)
class ScrapeTarget:
    """An engine process to be scraped.

    Attributes:
        port: Where it serves, by which gateways know it.
        metrics_port: Where it is scraped, if elsewhere.
    """

    port: int
    replica: str
    pool: PoolKey
    metrics_port: int | None = None


@dataclass(frozen=True, slots=True)
class ScrapePlan:
    """Who is scraped how often; ports None for what is not there."""

    targets_file: Path
    interval_s: float
    pools: tuple[PoolKey, ...]
    envoy_admin_port: int | None = None
    daemon_port: int | None = None


def prometheus_config(plan: ScrapePlan) -> dict[str, Any]:
    """Return the configuration file's content (YAML reads JSON)."""
    interval = f"{round(plan.interval_s * 1000)}ms"
    jobs: list[dict[str, Any]] = [
        {
            "job_name": "engines",
            "honor_labels": False,
            "file_sd_configs": [{"files": [str(plan.targets_file)], "refresh_interval": "5s"}],
        }
    ]
    if plan.envoy_admin_port is not None:
        jobs.append(
            {
                "job_name": "envoy",
                "metrics_path": "/stats/prometheus",
                "static_configs": [{"targets": [f"127.0.0.1:{plan.envoy_admin_port}"]}],
                "metric_relabel_configs": _envoy_labels(plan.pools),
            }
        )
    if plan.daemon_port is not None:
        target = {"targets": [f"127.0.0.1:{plan.daemon_port}"]}
        jobs.append({"job_name": "foresail", "static_configs": [target]})
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": "1m"},
        "scrape_configs": jobs,
    }


def write_targets(file: Path, targets: Sequence[ScrapeTarget]) -> None:
    """Replace the engines that are scraped; Prometheus sees a rename at once."""
    groups = [
        {
            "targets": [f"127.0.0.1:{target.metrics_port or target.port}"],
            "labels": {
                "instance": f"127.0.0.1:{target.port}",
                "pod": target.replica,
                "pool": target.pool.pool,
                "model_name": target.pool.model,
                "role": target.pool.role.value,
            },
        }
        for target in targets
    ]
    text = json.dumps(groups, indent=1)
    if file.exists() and file.read_text() == text:
        return
    draft = file.with_name(f".{file.name}.new")
    draft.write_text(text)
    draft.rename(file)


def _envoy_labels(pools: Sequence[PoolKey]) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = [
        # Histograms of a gateway that nobody asks for are most of its series.
        {"source_labels": ["__name__"], "regex": "envoy_.+_bucket", "action": "drop"},
        {"source_labels": ["envoy_endpoint_hostname"], "regex": "(.+)", "target_label": "pod"},
    ]
    for pool in pools:
        known = {
            "source_labels": ["envoy_cluster_name"],
            "regex": re.escape(name_in_statistics(pool)),
            "action": "replace",
        }
        labels = {"pool": pool.pool, "model_name": pool.model, "role": pool.role.value, "envoy_cluster_name": str(pool)}
        rules += [
            {**known, "target_label": label, "replacement": value.replace("$", "$$")} for label, value in labels.items()
        ]
    return rules
