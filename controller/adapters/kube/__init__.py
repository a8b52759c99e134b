"""What does a Kubernetes cluster hold of the fleet: a watched cache, and its objects as pools, replicas and nodes.

``json_reading``, ``pods``, ``groups``, ``templates``, ``workloads``, ``revisions``, ``discovery``, ``pool_states``,
``nodes`` and ``routes`` are pure; ``client``, ``stores`` and ``reflector`` talk to the API server; ``cluster`` puts them
together. ``permissions`` says what of the API each feature needs, ``policy_schema`` how settings look as an object.
"""
