-- Dead letters as Khata keeps them: each once, byte for byte, until somebody has decided what becomes of it.
CREATE TABLE messaging.dead_letter (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The record that failed. Where its letter does not say which (`origin_known` false): the letter itself.
    topic text NOT NULL,                 -- where a redrive sends it
    partition integer NOT NULL,
    log_offset bigint NOT NULL,
    origin_known boolean NOT NULL,
    digest bytea NOT NULL,               -- of timestamp, key and value: a topic made anew uses its offsets again
    original_at timestamptz NOT NULL,    -- when the broker first took it; ages are measured against that
    key bytea,
    value bytea,
    header_names bytea[] NOT NULL,       -- in order, the `dlq.*` ones with them; bytes, for a name may hold anything
    header_values bytea[] NOT NULL,
    truncated_from bigint,               -- the whole value's length, when only its beginning is here
    damaged text NOT NULL DEFAULT '',    -- why its headers are not here, if they are not
    -- Why it failed, as its letter says.
    attempt bigint NOT NULL,
    consumer_group text NOT NULL,
    service text NOT NULL,
    version text NOT NULL,
    error_class text NOT NULL,
    code text NOT NULL,
    error text NOT NULL,
    failed_at timestamptz NOT NULL,
    -- Best effort, from the topic's name or the value.
    project_id text,
    organisation_id text,
    event_at timestamptz,                -- of a live usage event; null for what is none or cannot be read
    -- Where the letter stood when it was first read.
    letter_partition integer NOT NULL,
    letter_offset bigint NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    -- What became of it.
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'redriven', 'dropped')),
    decided_at timestamptz,
    decided_by text,
    reason text,
    redriven_partition integer,
    redriven_offset bigint,
    sending_since timestamptz,           -- a redrive has begun and its end is not known: it may have been sent
    sending_by text,
    UNIQUE (topic, partition, log_offset, origin_known, digest),
    CHECK (cardinality(header_names) = cardinality(header_values)),
    CHECK ((state = 'open') = (decided_at IS NULL)),
    CHECK ((decided_at IS NULL) = (decided_by IS NULL)),
    CHECK (state <> 'dropped' OR reason <> '')
);
CREATE INDEX dead_letter_open ON messaging.dead_letter (topic, code, failed_at) WHERE state = 'open';
CREATE INDEX dead_letter_by_time ON messaging.dead_letter (failed_at, id);
CREATE INDEX dead_letter_closed ON messaging.dead_letter (decided_at) WHERE state <> 'open';

-- Letters about events of a month that is sealed by now: sent again, they become adjustments of a later invoice.
CREATE VIEW messaging.dead_letter_of_sealed_month AS
SELECT letter.id, seal.organisation_id, seal.year, seal.month
FROM messaging.dead_letter AS letter
JOIN catalogue.project ON project.id = letter.project_id
JOIN catalogue.organisation ON organisation.id = project.organisation_id
JOIN usage.seal ON seal.organisation_id = organisation.id
    AND seal.year = extract(year FROM letter.event_at AT TIME ZONE organisation.time_zone)
    AND seal.month = extract(month FROM letter.event_at AT TIME ZONE organisation.time_zone);

GRANT SELECT, INSERT,
    UPDATE (state, decided_at, decided_by, reason, redriven_partition, redriven_offset, sending_since, sending_by)
    ON messaging.dead_letter TO khata_aggregator;
GRANT SELECT ON messaging.dead_letter TO khata_reader;
GRANT SELECT ON messaging.dead_letter_of_sealed_month TO khata_aggregator, khata_reader;

-- What was decided is kept for 400 days, longer than its topic (90 days) could bring it back; what is open, for ever.
CREATE FUNCTION messaging.purge_dead_letters(most integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH gone AS (
        DELETE FROM messaging.dead_letter WHERE id = ANY (ARRAY(
            SELECT id FROM messaging.dead_letter
            WHERE state <> 'open' AND decided_at < now() - interval '400 days'
            ORDER BY decided_at LIMIT most FOR UPDATE SKIP LOCKED
        )) RETURNING 1
    ) SELECT count(*) FROM gone
$$;
REVOKE ALL ON FUNCTION messaging.purge_dead_letters FROM PUBLIC;
GRANT EXECUTE ON FUNCTION messaging.purge_dead_letters TO khata_aggregator;
