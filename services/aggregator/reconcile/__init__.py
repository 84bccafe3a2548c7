"""Reconciliation: independent witnesses of the same events are held against each other, and what differs is named.

Pure comparisons: `receipts.py`, `spools.py`, `archive.py`, `identities.py`, `windows.py`. They are fed by the passes
(`log_pass.py`, `offset_pass.py`, `window_pass.py`), which `run.py` puts together. `repair.py` alone writes usage.
"""
