"""What do the shipped playbooks look like where engines start in seconds: the same steps, with less patience?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.playbook_catalogue import shipped_playbooks


def quick_playbooks(numbers: Mapping[str, float]) -> dict[str, Any]:
    """Return, as settings have them, the shipped playbooks in which one of ``numbers`` stands in another one's place.

    Args:
        numbers: Each by the word that a playbook has before it, such as ``silent_s``, ``running_s`` or ``back_off_s``.

    >>> quick_playbooks({"running_s": 20})["take-out-for-now"]["steps"][1]["wait_until"]
    {'running_s': 20}
    """
    written = {
        name: playbook.model_dump(mode="json", by_alias=True, exclude_unset=True)
        for name, playbook in shipped_playbooks().items()
    }
    quick = {name: _with(playbook, numbers) for name, playbook in written.items()}
    return {name: playbook for name, playbook in quick.items() if playbook != written[name]}


def _with(written: Any, numbers: Mapping[str, float]) -> Any:
    if isinstance(written, Mapping):
        return {word: numbers.get(word, _with(value, numbers)) for word, value in written.items()}
    return [_with(each, numbers) for each in written] if isinstance(written, list) else written
