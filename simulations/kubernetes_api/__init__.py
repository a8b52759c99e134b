"""A Kubernetes API server of our own: small, stateful, spoken to over HTTP by the official client and ``kubectl``.

Belongs here: what a cluster's control plane does with objects, and the trouble that it gives its clients. Nothing here
knows Foresail.

Entry points, which stay as they are:

* ``running.running_api(clock=, kinds=, access=, seed=, port=, kept_changes=, bookmark_every_s=, settle_every_s=)``: a
  context manager that yields a ``RunningApi``: ``url``, ``version``, ``call(method, target, body)`` (in the process,
  past faults and rules), ``kubeconfig(token, namespace)`` and ``write_kubeconfig(path, ...)``.
* The rest of the cluster: ``settle()`` steps all controllers until nothing changes, ``step()`` once;
  ``add_nodes(count)`` before pods can run, ``populate(deployment, copies)`` for a large fleet at once;
  ``kubelet.start_s``, ``stop_s``, ``paused``, ``kubelet.troubles.pods["ns/name"] = "crash"`` (``unready``, ``stuck``,
  ``failed``, ``lingering``; for every pod of an image in ``troubles.images``), ``gateways.paused``.
* Trouble: ``fault(faults.Fault(...))`` and ``faults.clear()``, ``drop_watches()``, ``cut_connections()``, ``compact()``
  (410), ``partition("reset" | "hang")`` and ``heal()``, ``grant(token, access.Subject(...))`` and ``expire(token)``.
* Who has written what, with each object right before and after it: ``written``, of clients that have a token.
"""
