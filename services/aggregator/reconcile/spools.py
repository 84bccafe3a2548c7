"""Spools against the log: all that a spool has forwarded must be there, while the log goes back that far. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from services.aggregator.reconcile.finding import Finding, FindingClass
from shared.contracts.messages.spool import SpoolState


def compare(states: Iterable[SpoolState], in_log: Mapping[str, int], *, whole_log: bool) -> list[Finding]:
    """`whole_log`: every record that was ever written was read. Totals count from the spool's beginning and have no
    places, so once retention has taken a record they can no longer be held against the log (receipts can).

    A record forwarded twice is in the log twice, so more than forwarded is no finding.
    """
    found = []
    for state in states:
        if state.lost_total:
            found.append(
                Finding(
                    f"spool_lost:{state.spool_id}",
                    FindingClass.SPOOL_LOST,
                    f"spool {state.spool_id} of {state.instance} has lost {state.lost_total} accepted events with a "
                    "damaged write-ahead log: ask who sent them to send them again",
                    details={"lost": state.lost_total, "instance": state.instance},
                )
            )
        here = in_log.get(state.spool_id, 0)
        if whole_log and here < state.forwarded_total:
            found.append(
                Finding(
                    f"spool_missing:{state.spool_id}",
                    FindingClass.SPOOL_MISSING,
                    f"spool {state.spool_id} of {state.instance} has forwarded {state.forwarded_total} events, the log "
                    f"holds {here} of them",
                    details={"forwarded": state.forwarded_total, "in_log": here, "instance": state.instance},
                )
            )
    return found
