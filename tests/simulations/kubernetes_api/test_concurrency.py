"""Does the server keep its word when many clients write at once?"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import urllib3

from simulations.kubernetes_api.running import RunningApi
from tests.builders_kubernetes_api import NAMESPACE, Clients

PATH = "/api/v1/namespaces/default/configmaps/counter"
WRITERS, EACH = 4, 15


def count_up(url: str, all_have_read: threading.Barrier) -> int:
    """Raise the counter by optimistic concurrency; return how often somebody else was faster."""
    conflicts = 0
    with urllib3.PoolManager() as pool:
        for number in range(EACH):
            while True:
                held = json.loads(pool.request("GET", url + PATH).data)
                if number == 0 and conflicts == 0:
                    all_have_read.wait(30.0)
                held["data"]["count"] = str(int(held["data"]["count"]) + 1)
                answer = pool.request("PUT", url + PATH, body=json.dumps(held).encode())
                if answer.status == 200:
                    break
                assert answer.status == 409
                conflicts += 1
    return conflicts


def test_no_update_is_lost_and_a_watch_tells_each_of_them_once(k8s: Clients, api: RunningApi) -> None:
    made = k8s.core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "counter"}, "data": {"count": "0"}})
    with ThreadPoolExecutor(WRITERS) as pool:
        conflicts = list(pool.map(count_up, [api.url] * WRITERS, [threading.Barrier(WRITERS)] * WRITERS))
    assert sum(conflicts) >= WRITERS - 1  # all had read the same version before the first of them wrote
    assert k8s.core.read_namespaced_config_map("counter", NAMESPACE).data == {"count": str(WRITERS * EACH)}
    query = f"?watch=1&timeoutSeconds=1&resourceVersion={made.metadata.resource_version}"
    streamed = urllib3.request("GET", api.url + PATH.rpartition("/")[0] + query).data
    events = [json.loads(line)["object"] for line in streamed.splitlines()]
    assert [event["data"]["count"] for event in events] == [str(number) for number in range(1, WRITERS * EACH + 1)]
    versions = [int(event["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))
