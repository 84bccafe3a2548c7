-- Who sent a correction: the source in its identity, and the API key it came with (empty: over Kafka).
ALTER TABLE usage.correction
    ADD COLUMN source text NOT NULL DEFAULT '',
    ADD COLUMN key_id text NOT NULL DEFAULT '';
