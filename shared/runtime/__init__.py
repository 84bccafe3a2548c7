"""How a process lives: settings, start, run, drain, stop, failpoints. Knows nothing of Kafka or Postgres."""
