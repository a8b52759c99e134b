"""What waits for a human's word, and which word lets it through?

A plan at ``approve`` is proposed for as long as it is decided. An approval counts for the very plan that it names, and
once: it is marked as used before the act, so that a crash in between loses the approval and not the promise.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from controller.approval import Refused, Statement, statement_in, why_early, why_refused
from controller.approval_settings import ApprovalSettings
from controller.instants import instant
from controller.plans import ID_CHARS, Target, digest_of, said
from controller.ports import ActResult
from policies.wire import Plain

MOST_PENDING = 200
"""Plans that are proposed at once; a human who is asked for more than that reads none."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A plan that is decided now and may be done once somebody approves."""

    target: Target
    facts: Mapping[str, Plain]
    why: str

    @property
    def digest(self) -> str:
        """What names the plan."""
        return digest_of(self.target.act, self.facts)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan that waits, since when, and until when before it is told again."""

    digest: str
    action_class: str
    act: str
    subject: str
    facts: Mapping[str, Plain]
    why: str
    since_at: float
    until_at: float

    @property
    def id(self) -> str:
        """What people call it by."""
        return self.digest[:ID_CHARS]


def proposal_json(proposal: Proposal) -> dict[str, Any]:
    """Return a proposal for machines, ready for ``json.dumps``, with its id and what it would do in words."""
    return {"id": proposal.id, "what": f"{proposal.act} {said(proposal.facts)}", **asdict(proposal)}


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a plan may be done now, and by whose word, or why not."""

    allowed: bool
    words: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A file in the inbox: its content, or why that was not read."""

    name: str
    content: bytes
    refused: str = ""


class ApprovalBox(Protocol):
    """Where proposals are laid out, approvals arrive, and used ones are remembered. Verbs may raise OSError."""

    @property
    def memory(self) -> str:
        """Id of the memory of used approvals; a lost memory never comes back under the same one."""
        ...

    def proposals(self) -> tuple[Proposal, ...]:
        """Return what was last laid out; nothing where that cannot be read."""
        ...

    def lay_out(self, proposals: Sequence[Proposal]) -> None:
        """Show ``proposals`` to whoever may approve, in place of earlier ones."""
        ...

    def dropped(self) -> tuple[Dropped, ...]:
        """Return what is in the inbox, bounded in number and size."""
        ...

    def discard(self, name: str) -> None:
        """Take a file out of the inbox, if it can be; never raises."""
        ...

    def used(self, statement: Statement) -> bool:
        """Return whether it was used, or may have been."""
        ...

    def use(self, statement: Statement, at: float) -> bool:
        """Remember for good that it is used; return False if it was already. Nothing is acted on before."""
        ...


class Approvals:
    """Proposals and the answers to them, over the ticks of one daemon.

    Attributes:
        pending: What waits, as of the newest tick; may be read from any thread.
    """

    def __init__(
        self, settings: ApprovalSettings, approvers: Mapping[str, bytes], box: ApprovalBox, now: Callable[[], float]
    ) -> None:
        """``approvers`` are public keys by name; proposals that were laid out before go on waiting."""
        self._settings, self._approvers, self._box, self._now = settings, approvers, box, now
        self.pending = box.proposals()
        self._statements: dict[str, list[tuple[str, Statement]]] = {}
        self._told: set[tuple[str, str]] = set()
        self._laid_out_for = ""

    def look(self, wishes: Sequence[Wish]) -> tuple[ActResult, ...]:
        """Read the inbox, propose what of ``wishes`` nobody rejected, and nothing else.

        Returns:
            What was refused, each refusal once.
        """
        at = self._now()
        wanted = {wish.digest: wish for wish in wishes}
        refused = [*self._read_inbox(wanted.keys(), at), *self._lay_out(self._proposals(wanted, at))]
        news = [result for result in refused if (result.subject, result.detail) not in self._told]
        self._told = {(result.subject, result.detail) for result in refused}
        return tuple(news)

    def waits(self, wish: Wish) -> str:
        """Return how ``wish`` waits, in words; empty when it does not: somebody answered already."""
        digest = wish.digest
        return "" if self._about(digest, self._now()) else self._waits(digest)

    def ask(self, wish: Wish) -> Answer:
        """Return whether ``wish`` may be done now. A yes uses an approval up."""
        at, digest = self._now(), wish.digest
        statements = self._about(digest, at)
        for _, statement in statements:
            if statement.verdict == "reject":
                return Answer(False, _rejected(statement))
        for name, statement in statements:
            try:
                fresh = self._box.use(statement, at)
            except OSError as error:
                return Answer(False, f"approved, but that cannot be marked as used: {error.strerror or error}")
            self._statements[digest].remove((name, statement))
            self._box.discard(name)
            if fresh:
                self.pending = tuple(proposal for proposal in self.pending if proposal.digest != digest)
                self._laid_out_for = ""
                return Answer(True, f"approved by {statement.approver}, approval {statement.id[:ID_CHARS]}")
        return Answer(False, self._waits(digest))

    def settle(self) -> None:
        """Lay out what still waits once the acts are done; what goes wrong with that is told at the next look."""
        if not self._laid_out_for:
            for _ in self._lay_out(self.pending):
                pass

    def _waits(self, digest: str) -> str:
        for proposal in self.pending:
            if proposal.digest == digest:
                return f"waits for approval {proposal.id} (until {instant(proposal.until_at)})"
        return f"waits for approval, and is not proposed: {MOST_PENDING} others wait"

    def _about(self, digest: str, at: float) -> list[tuple[str, Statement]]:
        """Return the statements about a plan that hold at ``at``."""
        found = self._statements.get(digest, ())
        return [(name, said) for name, said in found if not (self._why_refused(said, at) or why_early(said, at))]

    def _proposals(self, wanted: Mapping[str, Wish], at: float) -> tuple[Proposal, ...]:
        """Return what is to wait: those that do already first, each as it was, unless nobody answered in time."""
        known = {p.digest: p for p in self.pending if p.since_at <= at < p.until_at}
        rejected = {d for d in wanted if any(said.verdict == "reject" for _, said in self._about(d, at))}
        asked = sorted((d for d in wanted if d not in rejected), key=lambda digest: digest not in known)
        return tuple(
            replace(known[digest], why=wanted[digest].why) if digest in known else self._new(digest, wanted[digest], at)
            for digest in asked[:MOST_PENDING]
        )

    def _new(self, digest: str, wish: Wish, at: float) -> Proposal:
        target, until_at = wish.target, at + self._settings.wait_s
        action_class = target.action_class.value
        return Proposal(digest, action_class, target.act, target.subject, wish.facts, wish.why, at, until_at)

    def _lay_out(self, proposals: tuple[Proposal, ...]) -> Iterator[ActResult]:
        same, self.pending = proposals == self.pending, proposals
        if same and self._laid_out_for == self._box.memory:
            return
        try:
            self._box.lay_out(proposals)
        except OSError as error:
            self._laid_out_for = ""
            yield _refusal("proposals", f"cannot be laid out: {error.strerror or error}")
        else:
            self._laid_out_for = self._box.memory

    def _read_inbox(self, wanted: Container[str], at: float) -> Iterator[ActResult]:
        """Take what is in the inbox for the statements of this tick; yield what does not count.

        What cannot come to count is thrown away. What may, since its plan is not decided just now or it begins later,
        stays until it expires.
        """
        self._statements = {}
        try:
            dropped = self._box.dropped()
        except OSError as error:
            yield _refusal("inbox", f"cannot be read: {error.strerror or error}")
            return
        for file in dropped:
            try:
                statement = self._statement(file, at)
            except Refused as refused:
                self._box.discard(file.name)
                yield _refusal(file.name, f"refused: {refused}")
                continue
            if _ended(statement, at):
                self._box.discard(file.name)
            elif early := why_early(statement, at):
                yield _refusal(file.name, f"refused: {early}")
            elif statement.plan in wanted:
                self._statements.setdefault(statement.plan, []).append((file.name, statement))
            elif statement.verdict == "approve":
                what = f"refused: {statement.approver} signed another plan than those that wait now"
                yield _refusal(file.name, f"{what} ({statement.plan[:ID_CHARS]})")

    def _statement(self, file: Dropped, at: float) -> Statement:
        if file.refused:
            raise Refused(file.refused)
        statement = statement_in(file.content, self._approvers)
        if not _ended(statement, at) and (why := self._why_refused(statement, at)):
            raise Refused(why)
        return statement

    def _why_refused(self, statement: Statement, at: float) -> str:
        why = why_refused(statement, self._box.memory, self._settings.max_lifetime_s, at)
        return why or ("it is replayed: it was used before" if self._box.used(statement) else "")


def _ended(statement: Statement, at: float) -> bool:
    """Whether a rejection has held for as long as it was meant to; an approval that nobody used is late instead."""
    return statement.verdict == "reject" and at >= statement.until_at


def _rejected(statement: Statement) -> str:
    why = f": {statement.why}" if statement.why else ""
    return f"rejected by {statement.approver} (until {instant(statement.until_at)}){why}"


def _refusal(subject: str, what: str) -> ActResult:
    return ActResult("approval", subject, "failed", what)
