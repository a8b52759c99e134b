"""What does a Kubernetes cluster hold of the fleet: a watched cache, and its objects as pools, replicas and nodes.

Pure: ``json_reading``, ``kinds``, ``templates``, ``pods``, ``groups``, ``workloads``, ``revisions``, ``discovery``,
``label_selectors``, ``pool_states`` and ``nodes`` turn what an API server says into states, or into refusals;
``routes`` reads and changes shares of traffic; ``permissions`` says what each feature needs of the API, and
``policy_schema`` how settings look as an object. The edge: ``reach`` and ``client`` ask the server, ``reflector`` keeps
``stores`` as it has them, and ``cluster`` tells of pools and nodes.

ScalingPolicy objects: ``policy_objects`` reads them, ``policy_settings`` lays them over the settings file and
``policy_status`` says what each shows of a tick, all pure; ``policy_watch`` and ``policy_writer`` are the edge, and
``policies`` is what a reload and a tick see of them.
"""
