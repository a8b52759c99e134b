"""A Kubernetes API server of our own: small, stateful, spoken to over HTTP by the official client and ``kubectl``.

Belongs here: what a cluster's control plane does with objects, and the trouble that it gives its clients. Nothing here
knows Foresail.

Entry points, which stay as they are:

* ``running.running_api(clock=, kinds=, access=, seed=, port=, kept_changes=, bookmark_every_s=)``: a context manager
  that yields a ``RunningApi``: ``url``, ``version``, ``call(method, target, body)`` (in the process, past faults and
  rules), ``kubeconfig(token, namespace)`` and ``write_kubeconfig(path, ...)``.
* Trouble: ``fault(faults.Fault(...))`` and ``faults.clear()``, ``drop_watches()``, ``cut_connections()``, ``compact()``
  (410), ``partition("reset" | "hang")`` and ``heal()``, ``grant(token, access.Subject(...))`` and ``expire(token)``.
"""
