"""What does the body of a request ask for: an object, a patch, or how to delete?"""

from __future__ import annotations

from typing import cast

from simulations.kubernetes_api.deleting import Deletion
from simulations.kubernetes_api.patches import json_patched, merge_patched, strategic_patched
from simulations.kubernetes_api.refusals import Json, bad_request, unsupported_media
from simulations.kubernetes_api.requests import Aim, Request
from simulations.kubernetes_api.writing import Alteration, Write

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


def object_of(request: Request, aim: Aim) -> Json:
    """Return the object of a create, an update or an apply.

    Raises:
        Refusal: 400 where it is of another kind than the path, or none.
    """
    body = request.object()
    told = body.get("apiVersion", aim.kind.api_version), body.get("kind", aim.kind.kind)
    if told != (aim.kind.api_version, aim.kind.kind):
        raise bad_request(
            f'{told[1]} in version "{told[0]}" cannot be handled as a {aim.kind.kind}: converting '
            f"({told[0]}.{told[1]}) to ({aim.kind.api_version}.{aim.kind.kind}): unknown conversion"
        )
    return body


def write_of(request: Request, aim: Aim) -> Write:
    """Return who writes and how; without ``fieldManager`` the client's name is the first part of its user agent."""
    agent = request.header("User-Agent").partition("/")[0] or "unknown"
    return Write(aim.params.get("fieldManager") or agent, aim.subresource, aim.dry_run)


def alteration_of(request: Request, aim: Aim) -> Alteration:
    """Return what a patch does to an object; custom resources take no strategic merge patch.

    Raises:
        Refusal: 400 or 415.
    """
    document = request.document()
    if request.sort == JSON_PATCH:
        return lambda value: json_patched(value, document)
    if not isinstance(document, dict):
        raise bad_request("json: cannot unmarshal array into Go value of type map[string]interface {}")
    if request.sort == MERGE_PATCH:
        return lambda value: cast("Json", merge_patched(value, document))
    if request.sort == STRATEGIC_PATCH and not aim.kind.custom:
        return lambda value: strategic_patched(value, document)
    strategic = () if aim.kind.custom else (STRATEGIC_PATCH,)
    raise unsupported_media(JSON_PATCH, MERGE_PATCH, *strategic, APPLY_PATCH)


def deletion_of(request: Request, aim: Aim) -> Deletion:
    """Return how to delete, from ``DeleteOptions`` and the query.

    Raises:
        Refusal: 400 or 415.
    """
    options = request.object()
    wanted = options.get("preconditions") or {}
    grace = options.get("gracePeriodSeconds", aim.params.get("gracePeriodSeconds"))
    return Deletion(
        grace_s=None if grace is None else int(grace),
        uid=wanted.get("uid", ""),
        version=wanted.get("resourceVersion", ""),
        propagation=options.get("propagationPolicy") or aim.params.get("propagationPolicy", ""),
        dry_run=aim.dry_run or options.get("dryRun") == ["All"],
    )
