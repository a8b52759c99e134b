"""Who owns which field of an object, and may a server-side apply change it?

Update semantics: whoever changes a field by PUT, POST or another patch owns it from then on. Apply semantics: a manager
owns what its last configuration says; to give another value to a field that somebody else owns is a conflict unless
forced; a field that the manager no longer says, and nobody else owns, goes away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simulations.kubernetes_api.field_paths import (
    Path,
    fields_v1,
    flat,
    item_element,
    paths_of,
    shown,
    without,
)
from simulations.kubernetes_api.merge_keys import ATOMIC_MAPS, apply_keys, is_set
from simulations.kubernetes_api.refusals import Json, Refusal


@dataclass(frozen=True, slots=True)
class FieldOwner:
    """Who writes, to which subresource, in which version of the API and when (RFC 3339)."""

    name: str
    api_version: str
    at: str
    subresource: str = ""

    def owns(self, entry: Json, operation: str) -> bool:
        """Return whether an entry of ``managedFields`` is this manager's."""
        told = entry["manager"], entry["operation"], entry.get("subresource", "")
        return told == (self.name, operation, self.subresource)

    def entry(self, operation: str, paths: set[Path]) -> Json:
        """Return the manager's entry."""
        entry: Json = {
            "manager": self.name,
            "operation": operation,
            "apiVersion": self.api_version,
            "time": self.at,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields_v1(paths),
        }
        if self.subresource:
            entry["subresource"] = self.subresource
        return entry


def note_update(before: Json | None, after: Json, manager: FieldOwner) -> None:
    """Write into ``after`` that ``manager`` owns what it has changed since ``before``."""
    old, new = flat(before) if before else {}, flat(after)
    entries: list[Json] = (before or {}).get("metadata", {}).get("managedFields") or []
    changed = {path for path, held in new.items() if path not in old or old[path] != held}
    gone = old.keys() - new.keys()
    if before and not changed and not gone:
        after["metadata"]["managedFields"] = entries
        return
    kept = _without_paths(entries, changed | gone, lambda entry: manager.owns(entry, "Update"), gone)
    mine = next((entry for entry in kept if manager.owns(entry, "Update")), None)
    if changed:
        owned = changed | (paths_of(mine["fieldsV1"]) if mine else set())
        kept = [entry for entry in kept if entry is not mine]
        kept.append(manager.entry("Update", owned))
    after["metadata"]["managedFields"] = kept


def _without_paths(entries: list[Json], paths: set[Path], mine: Any, gone: set[Path]) -> list[Json]:
    kept = []
    for entry in entries:
        owned = paths_of(entry["fieldsV1"])
        left = owned - (gone if mine(entry) else paths)
        if left == owned:
            kept.append(entry)
        elif left:
            kept.append({**entry, "fieldsV1": fields_v1(left)})
    return kept


def applied(live: Json | None, config: Json, manager: FieldOwner, *, force: bool) -> Json:
    """Return what a server-side apply of ``config`` makes of ``live``, which may be altered.

    Raises:
        Refusal: 409 that names the managers of the fields in conflict.
    """
    live = live or {}
    wanted, held = flat(config), flat(live)
    entries: list[Json] = live.get("metadata", {}).get("managedFields") or []
    others = [(entry, paths_of(entry["fieldsV1"])) for entry in entries if not manager.owns(entry, "Apply")]
    changed = {path for path, value in wanted.items() if path not in held or held[path] != value}
    conflicts = [(entry, path) for entry, owned in others for path in sorted(owned & changed) if path in held]
    if conflicts and not force:
        raise _conflicts(conflicts)
    mine = next((paths_of(entry["fieldsV1"]) for entry in entries if manager.owns(entry, "Apply")), set())
    owned_by_others = set().union(*(owned for _, owned in others)) if others else set()
    merged: Json = _merged(live, config)
    for path in sorted(mine - wanted.keys(), key=len):  # an item goes before the keys that it is found by
        if not _still_owned(path, owned_by_others | wanted.keys()):
            without(merged, path)
    left = flat(merged)
    kept = []
    for entry, owned in others:
        remaining = {path for path in owned if path in left and path not in changed}
        if remaining:
            kept.append(entry if remaining == owned else {**entry, "fieldsV1": fields_v1(remaining)})
    before = next((entry for entry in entries if manager.owns(entry, "Apply")), None)
    own = before if before and mine == set(wanted) else manager.entry("Apply", set(wanted))
    merged["metadata"]["managedFields"] = [own, *kept]
    return merged


def _still_owned(path: Path, owned: set[Path]) -> bool:
    return any(other[: len(path)] == path for other in owned)


def _conflicts(found: list[tuple[Json, Path]]) -> Refusal:
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {_told(entry)}", "field": shown(path)}
        for entry, path in found
    ]
    if len(causes) == 1:
        message = f"Apply failed with 1 conflict: {causes[0]['message']}: {causes[0]['field']}"
    else:
        by_manager: dict[str, list[str]] = {}
        for entry, path in found:
            by_manager.setdefault(_told(entry), []).append(shown(path))
        told = [
            f"conflicts with {who}:\n" + "\n".join(f"- {one}" for one in fields) for who, fields in by_manager.items()
        ]
        message = f"Apply failed with {len(causes)} conflicts: " + "\n".join(told)
    return Refusal(409, "Conflict", message, {"causes": causes})


def _told(entry: Json) -> str:
    told = f'"{entry["manager"]}"'
    if entry.get("subresource"):
        told += f' with subresource "{entry["subresource"]}"'
    if entry["operation"] == "Update":
        told += f" using {entry['apiVersion']}"
        if entry.get("time"):
            told += f" at {entry['time']}"
    return told


def _merged(live: Any, config: Any, name: str = "") -> Any:
    if isinstance(config, dict) and isinstance(live, dict) and name not in ATOMIC_MAPS:
        merged = dict(live)
        for key, held in config.items():
            merged[key] = _merged(live.get(key), held, key)
        return merged
    if isinstance(config, list) and isinstance(live, list):
        return _merged_list(live, config, name)
    return config


def _merged_list(live: list[Any], config: list[Any], name: str) -> list[Any]:
    if is_set(name):
        return live + [item for item in config if item not in live]
    keys = apply_keys(name, config)
    if keys is None or apply_keys(name, live) is None:
        return config
    held = {item_element(item, keys): item for item in live}
    ours = {item_element(item, keys): item for item in config}
    return [_merged(held.get(key, {}), item) for key, item in ours.items()] + [
        item for key, item in held.items() if key not in ours
    ]
