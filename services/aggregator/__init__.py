"""Aggregator: applies each usage event once, in one Postgres transaction with its own offset."""
