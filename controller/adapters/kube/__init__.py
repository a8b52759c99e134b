"""What does a Kubernetes cluster hold of the fleet: a watched cache, and its objects as pools, replicas and nodes.

``permissions`` is pure: it says what of the API each feature needs.
"""
