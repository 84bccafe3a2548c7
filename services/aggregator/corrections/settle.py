"""Decide corrections whose targets are known, and write what they do: in the caller's transaction, projects locked.

1  what has been applied to each target before, and which of its adjustments stand
2  decide, target by target (pure)
3  windows by key, entered to be published; then those that are to be looked at again
4  the corrections themselves, then adjustments
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.aggregator.corrections import store
from services.aggregator.corrections.decide import Decision, Outcome, Pending, Target, decide, merged
from services.aggregator.store import merge_windows
from services.aggregator.windows import store as published
from shared.domain.errors import Rejected
from shared.domain.period import Month
from shared.observability import names as metrics
from shared.postgres.pool import Connection
from shared.usage.event import EventReader


@dataclass(frozen=True, slots=True)
class Terms:
    """Under what corrections are decided: constant within an epoch."""

    reader: EventReader
    sealed: frozenset[tuple[str, Month]]

    def is_sealed(self, target: Target) -> bool:
        return (target.event.organisation_id, target.event.month) in self.sealed


async def settle(
    connection: Connection, terms: Terms, targets: Mapping[bytes, Target | Rejected], pending: Sequence[Pending]
) -> None:
    """`pending` in order, each with a target, or with why that cannot be read."""
    by_target = store.by_target(pending)
    applied = await store.applied(connection, list(by_target))
    adjustments = await store.standing_adjustments(connection, list(by_target))
    decisions: list[tuple[Target | None, Decision]] = []
    for key, mine in by_target.items():
        target = targets[key]
        if isinstance(target, Rejected):
            refused = [Outcome(one, code=target.code, explanation=target.message) for one in mine]
            decisions.append((None, Decision(refused)))
            continue
        before, adjusted = applied.get(key, ()), adjustments.get(key, ())
        sealed = terms.is_sealed(target)
        decisions.append((target, decide(target, before, mine, adjusted, terms.reader, sealed=sealed)))
    await _windows(connection, [decision for _, decision in decisions])
    await store.store(connection, [(found, one) for found, decision in decisions for one in decision.outcomes])
    await store.adjust(connection, [(found, decision) for found, decision in decisions if found is not None])
    outcomes = Counter(one.applied_as or "refused" for _, decision in decisions for one in decision.outcomes)
    for outcome, count in outcomes.items():
        metrics.CORRECTIONS.labels(outcome).inc(count)


async def _windows(connection: Connection, decisions: Sequence[Decision]) -> None:
    changed = merged(decisions)
    if not changed:
        return
    await merge_windows(connection, changed)
    await store.clear_empty(connection, list(changed))
    await published.queue(connection, list(changed))  # the archive cannot tell which these were
    dirty = {key for decision in decisions for key in decision.dirty}
    if dirty:
        await store.mark_dirty(connection, dirty)
