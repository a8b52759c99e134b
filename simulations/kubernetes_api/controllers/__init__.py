"""What a cluster's controllers make of its objects: Deployments, StatefulSets, pods, budgets and what is left over.

Belongs here: deterministic doubles that look at the objects and take one step. ``settling`` runs them until nothing
changes. They reach the objects through ``hands`` only; ``kubelet`` also over HTTP, for a cluster that has no kubelet.
"""
