"""Changed windows to `usage.windows.v1`: beside the batches, never in their way.

For the wiring: Changed, Publisher, Healer. For who changes windows without a batch: `store.queue`.
"""
