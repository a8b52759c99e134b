"""Which policies are there, in a few words each? At no cost, for whoever only asks."""

from __future__ import annotations

from collections.abc import Mapping

DESCRIBED: Mapping[str, str] = {
    "foresail": "sizes ahead of forecast demand, heals, balances pools",
    "hpa": "Kubernetes HPA on requests per replica",
    "keda": "KEDA on requests waiting in engines (vLLM's guide)",
    "keda-tokens": "KEDA on prefill backlog and KV cache (llm-d's guide)",
    "knative": "Knative's pod autoscaler on requests in flight",
    "aibrix-apa": "AIBrix's own autoscaler on KV cache use",
    "aibrix-kpa": "AIBrix's variant of Knative's, on KV cache use",
    "wva": "llm-d's autoscaler on spare KV cache and queue",
    "dynamo-throughput": "NVIDIA Dynamo on load, target throughput",
    "dynamo-latency": "NVIDIA Dynamo on load, target latency",
    "dynamo-sla": "NVIDIA Dynamo with prediction (ARIMA) and reaction",
    "ray-serve": "Ray Serve on ongoing requests per replica",
    "skyserve": "SkyServe on requests per second",
    "last-week": "HPA that also sizes for last week's load (Mimir)",
    "phpa": "Predictive HPA: Holt-Winters on its own answers",
    "static": "fixed, sized for the peak of the trace",
    "clairvoyant": "the bound: knows all arrivals, pays the lead time",
}

POLICIES = tuple(DESCRIBED)
