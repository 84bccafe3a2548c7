"""Ingest: takes usage events over HTTP and from Kafka and answers "yes" only after Kafka has them. No Postgres."""
