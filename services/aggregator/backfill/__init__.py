"""Back-fills: new meters count the events that were there before them.

For the wiring: Backfiller; for the CLI: commands.
"""
