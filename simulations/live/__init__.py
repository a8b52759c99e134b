"""What happens on real processes: engines, Envoy, Prometheus and a load player on one machine, steered by the daemon.

The one part of the simulations in which the daemon's adapters steer. Everything binds to loopback, every process dies
with the one that started it, and the cluster is ``platform.Platform``.
"""
