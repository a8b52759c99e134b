"""What load history does a metrics store hold? A ``History`` per model, read as the daemon reads it at its start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from controller.errors import BadInput
from forecasting.series import CHANNELS
from training.history import History, file_name, without_impossible_zeros


def histories_in_prometheus(
    url: str | None, config: Path | None, step_s: float, span_s: float, show: Callable[[float], None]
) -> list[History]:
    """Return the load of every model that the store knows, over the last ``span_s`` seconds.

    Args:
        url: Address of the store; None for that of ``config``.
        config: Settings file, for credentials and labels; None for defaults.
        step_s: Length of a step in seconds.
        span_s: How far back is read, in seconds.
        show: Told the share that has been read.

    Raises:
        BadInput: If the settings cannot be used, or there is no history.
        ObservationError: If the store cannot be asked.
    """
    from controller.adapters.prometheus_history import HistoryReader, read_history
    from controller.adapters.prometheus_http import PrometheusHttp
    from controller.adapters.system_clock import SystemClock
    from controller.settings import load_settings
    from policies.fleet import PoolKey

    settings = load_settings(config, [] if url is None else [f"prometheus.url={json.dumps(url)}"])
    clock = SystemClock()
    client = PrometheusHttp(settings.prometheus, clock.elapsed)
    try:
        pools = [PoolKey.parse(key) for key in settings.policy.pools]
        reader = HistoryReader(client, settings.prometheus, pools, client.now(), span_s, step_s)
        loads = read_history(reader, on_piece=show)
    finally:
        client.close()
    if not loads:
        raise BadInput("the metrics store has no load of any model", settings.prometheus.url, "see `foresail doctor`")
    note = "offered load read from the metrics store"
    if reader.done_ratio < 1.0:
        note += f"; only the newest {reader.done_ratio:.0%} of the time asked for could be read"
    return [
        History(file_name(model), without_impossible_zeros(load), CHANNELS, 1, 1.0, (note,))
        for model, load in sorted(loads.items())
    ]
