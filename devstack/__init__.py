"""Kafka, Postgres and Khata's services as plain processes of one machine, for development, the demo and the tests.

Other packages use `stack`, `supervisor` and `postgres.create_database`; nothing here imports a service or the
command line.
"""
