"""What went wrong, episode by episode: incidents read back from the audit log, and whether held acts were right.

``ticks`` reads rows, ``fold`` makes incidents of them, ``verdict`` judges what was not done: all pure. ``reading``,
``tables``, ``plot`` and ``cli`` are the edge.
"""
