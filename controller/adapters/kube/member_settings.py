"""Which clusters make up one fleet, what is each called, and how long is one held that cannot be reached?"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from controller.adapters.kube.settings import KubernetesSettings

MOST_MEMBERS = 16

MemberName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$")]


class MemberSettings(KubernetesSettings):
    """One cluster of several: all that can be said of a cluster, and how much the fleet depends on it."""

    optional: bool = Field(
        False,
        description="Whether the fleet is looked at without this member until it was reached for the first time since "
        "the start; else nothing is decided until then.",
    )


class ClustersSettings(BaseModel):
    """The clusters that a fleet runs in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["clusters"] = Field("clusters", description="Which platform: several Kubernetes clusters.")
    members: dict[MemberName, MemberSettings] = Field(
        min_length=1,
        max_length=MOST_MEMBERS,
        description="The clusters by name; each says its context. Routes name pools as the fleet does, MEMBER.POOL, "
        "and that of a model stands at one member: that whose gateway shares its requests out.",
    )
    pool_prefix: bool = Field(
        True,
        description="Whether pools are called MEMBER.POOL. If not, they keep their names, and one that two members "
        "tell of is refused at both.",
    )
    hold_s: float = Field(
        86_400.0,
        gt=0,
        description="Time in seconds for which a member that cannot be reached is told as it was last seen. After that "
        "nothing of the fleet is decided until it is back, or taken out of these settings.",
    )

    @property
    def lease_in(self) -> str | None:
        """The member whose lease replicas of Foresail hold in turn; None where only one runs."""
        return next((name for name, member in self.members.items() if member.lease is not None), None)

    @property
    def router_of(self) -> dict[str, str]:
        """The member that has the route of each model."""
        return {route.model: name for name, member in self.members.items() for route in member.routes}

    @property
    def optional(self) -> frozenset[str]:
        """Names of members that the fleet may begin without."""
        return frozenset(name for name, member in self.members.items() if member.optional)

    @model_validator(mode="after")
    def _clusters_are_apart(self) -> ClustersSettings:
        by_reach: dict[tuple[str, str], str] = {}
        for name, member in self.members.items():
            other = by_reach.setdefault((str(member.kubeconfig or ""), member.context or ""), name)
            if other != name:
                raise ValueError(f"members: {other} and {name} are reached alike; give each its kubeconfig or context")
        return self

    @model_validator(mode="after")
    def _no_policies(self) -> ClustersSettings:
        wanting = [name for name, member in self.members.items() if member.policies or member.pinned_models]
        if wanting:
            what = f"members: {wanting[0]} has policies or pinned_models"
            raise ValueError(f"{what}, and of several clusters no ScalingPolicies are read")
        return self

    @model_validator(mode="after")
    def _one_lease(self) -> ClustersSettings:
        having = [name for name, member in self.members.items() if member.lease is not None]
        if len(having) > 1:
            raise ValueError(f"members: {' and '.join(having)} each have a lease; who leads is settled at one place")
        for lease in [member.lease for member in self.members.values() if member.lease is not None]:
            for name, member in self.members.items():
                try:
                    lease.check_write(member.write_timeout_s)
                except ValueError as error:
                    raise ValueError(f"members: {name}: {error}") from None
        return self

    @model_validator(mode="after")
    def _one_route_per_model(self) -> ClustersSettings:
        by_model: dict[str, str] = {}
        for name, member in self.members.items():
            for route in member.routes:
                other = by_model.setdefault(route.model, name)
                if other != name:
                    raise ValueError(
                        f"members: {other} and {name} each have a route of {route.model}; the requests of a model are "
                        "shared out at one place"
                    )
        return self
