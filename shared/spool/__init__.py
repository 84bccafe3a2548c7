"""The spool: what was accepted while Kafka did not acknowledge, fsynced here until Kafka has it.

A spool is one disk. It outlives its process and, with the file system's honesty about fsync, the machine's
power; it does not outlive the disk. Until it is forwarded, what it holds exists once. Put it on storage that
is replicated below it when that is not enough.

One process owns one spool file (store.py); it is registered in `spools.v1` before its first event
(registry.py), forwarded in order (forward.py) and purged only when the consumers have it (purge.py).
No Postgres on any of these paths. `run.keep` runs the three loops together.
"""
