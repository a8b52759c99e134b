"""What engines and gateways call their metrics: one data file each, checked and typed by ``catalogue``.

``signals.yaml`` says which signals Foresail reads and what a missing one costs; every other file names, for one engine
or gateway, the metrics that may hold them. Names are data because they are renamed with almost every release.
"""
