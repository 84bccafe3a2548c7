"""Rerunnable measurements; each figure stands beside a limit taken in the same run, and totals are asserted."""
