"""Generations of identities: new keys go into the open one; closed ones never change and stand behind filters.

`store` is what Postgres does, `bloom` the filter (pure), `files` its file, `filters` those a process has in hand,
`keeper` the work in the background. `services/aggregator/identity.py` reads them; nothing else needs to.
"""
