"""Verbs on policies: add a revision, read revisions. A revision is never edited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from scheduler.domain.records import COLLECTION_POLICIES, CommitBatch
from scheduler.domain.state import ClusterState
from scheduler.planner.admission import policy_problems
from scheduler.planner.policy_warnings import policy_warnings
from scheduler.service.answers import Answer
from scheduler.service.messages import Outcome
from scheduler.service.paging import Page, page_size, read_token, write_token
from scheduler.service.workloads import ServiceCore, request_key
from suanli.model import Conflict, FieldProblem, InvalidRequest, NotFound, Policy

if TYPE_CHECKING:
    from scheduler.cycle import Cycle

CURRENT = "current"


class Policies:
    """See the module."""

    def __init__(self, core: ServiceCore, cycle: Cycle) -> None:
        self._core = core
        self._cycle = cycle

    def revise(
        self, policy: Policy, *, request_id: str = "", etag: str = "", validate_only: bool = False
    ) -> Answer[Policy]:
        """Add a revision, in force from then on; Conflict when `etag` is not that of the current one.

        The answer's `warnings` tell what of it cannot come true; `validate_only` answers with the number that the
        revision would have.
        """

        def check(state: ClusterState) -> None:
            problems = policy_problems(policy, state.topology)
            if problems:
                raise InvalidRequest([_in_request(p) for p in problems])
            if etag and etag != _etag(state.policy):
                raise Conflict(f"the policy has changed since etag {etag}; read it again")

        def decide(state: ClusterState, now_s: int) -> tuple[CommitBatch, dict[str, Any]]:
            check(state)
            dated = policy.model_copy(update={"created_at_s": now_s, "etag": ""})
            return self._cycle.revise_policy(state, now_s, dated), {"revision": state.policy.revision + 1}

        def look(state: ClusterState, now_s: int) -> Outcome:
            check(state)
            return Outcome({"revision": state.policy.revision + 1}, state.revision)

        def told(revised: Policy) -> Policy:
            now_s = self._core.now_s()
            found = self._core.read(lambda state: policy_warnings(policy, state, now_s))
            return revised.model_copy(update={"warnings": tuple(_in_request(w) for w in found)})

        if validate_only:
            return Answer(
                self._core.ask(look),
                lambda o: told(policy.model_copy(update={"revision": o.answer["revision"]})),
            )
        key = request_key(request_id, "policies.revise", policy.model_dump_json(), etag)
        return Answer(
            self._core.act(decide, key),
            lambda o: told(self.get(policy.policy_id, str(o.answer["revision"]))),
        )

    def current(self) -> Policy:
        """The revision in force; revision 0 is the built-in one."""
        policy = self._core.read(lambda state: state.policy)
        return policy.model_copy(update={"etag": _etag(policy)})

    def get(self, policy_id: str, revision: str) -> Policy:
        """One revision by number, or `current`; NotFound."""
        current = self.current()
        if policy_id == current.policy_id and revision in (CURRENT, str(current.revision)):
            return current
        if revision.isdecimal():
            name = f"policies/{policy_id}/revisions/{int(revision):06d}"
            document = self._core.store.document(COLLECTION_POLICIES, name)
            if document is not None and document.body is not None:
                return _policy(document.body)
        raise NotFound(f"no revision {revision} of policy {policy_id}")

    def page(self, policy_id: str, *, size: int = 0, token: str = "") -> Page[Policy]:
        """Revisions of one policy, newest first."""
        size = page_size(size)
        parent = f"policies/{policy_id}"
        before = read_token(token, [parent]) or ""
        documents = self._core.store.documents(
            COLLECTION_POLICIES, parent=parent, after_name=before, limit=size + 1, descending=True
        )
        more = len(documents) > size
        documents = documents[:size]
        return Page(
            tuple(_policy(d.body or b"") for d in documents),
            write_token(documents[-1].name, [parent]) if more else "",
        )


def _in_request(problem: FieldProblem) -> FieldProblem:
    return problem.model_copy(update={"field": f"policy_revision.{problem.field}"})


def _policy(body: bytes) -> Policy:
    policy = Policy.model_validate(orjson.loads(body))
    return policy.model_copy(update={"etag": _etag(policy)})


def _etag(policy: Policy) -> str:
    return str(policy.revision)
