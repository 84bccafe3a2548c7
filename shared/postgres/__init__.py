"""Postgres: pool, migrations, bulk writes, outbox, inbox, intents, the epoch lock. Knows no service."""
