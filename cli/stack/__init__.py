"""Khata's own services on one machine: their settings, their processes, found again by other commands."""
