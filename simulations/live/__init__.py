"""Real processes that pretend to be the world: emulated engines, a load player, and what runs them on one machine.

Belongs here: everything that needs sockets, child processes and the wall clock. The one part of ``simulations`` that
may use ``controller.adapters``.
"""
