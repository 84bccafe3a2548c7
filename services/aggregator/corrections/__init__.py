"""Corrections: what a void or an amend does to its target, wherever and whenever that was counted.

`decide.py` is pure and says it; `of_batch.py` and `waiting.py` find the target and write what was decided. `dirty.py`
looks again at windows whose extremes may have been another event's. Used by the aggregator, its reconciliation, and
(the commands) by the CLI.
"""
