"""Small helpers for tests; no product code."""
