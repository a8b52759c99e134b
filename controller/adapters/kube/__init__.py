"""What does a Kubernetes cluster hold of the fleet: a watched cache, and its objects as pools, replicas and nodes.

``permissions`` and ``policy_schema`` are pure: what of the API each feature needs, and what a ScalingPolicy may say.
"""
