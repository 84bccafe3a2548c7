"""Kafka: the one consumer loop, its offsets, the producer, dead letters, topics. Knows no service."""
