-- Usage: identities, windows, segments, seals. The aggregator writes it; the invoicer reads it through
-- shared/usage and writes one thing, the seal.
CREATE SCHEMA usage;

-- The epoch: its version rises with every roll, seal, meter or time zone change. Entered shared by each
-- batch and exclusively by whoever changes one of those (advisory lock: fair, unlike row locks).
CREATE TABLE usage.epoch (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version bigint NOT NULL
);
INSERT INTO usage.epoch (version) VALUES (1);

-- Ends the sessions of this database that hold the epoch lock in a transaction older than that and do not themselves
-- wait for a lock. Runs as the owner, with whose login every service connects, so no further privilege is needed.
CREATE FUNCTION usage.end_stale_holders(lock_key bigint, seconds double precision) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT count(*) FILTER (WHERE pg_terminate_backend(activity.pid))::integer
    FROM pg_locks AS lock JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
    WHERE lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 1
      AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND lock.classid = (lock_key >> 32)::oid AND lock.objid = (lock_key & 4294967295)::oid
      AND activity.pid <> pg_backend_pid()
      AND activity.xact_start < now() - make_interval(secs => seconds)
      AND activity.wait_event_type IS DISTINCT FROM 'Lock'
$$;
REVOKE ALL ON FUNCTION usage.end_stale_holders FROM PUBLIC;

-- A cut: the offset vector of every partition at one exclusive moment. "Below the cut" is reproducible for ever.
CREATE TABLE usage.cut (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch_version bigint NOT NULL,
    offsets jsonb NOT NULL,              -- {"topic": {"partition": next_offset}}
    taken_at timestamptz NOT NULL DEFAULT now()
);

-- A sealed month of one organisation (months in its own time zone); usage below the cut is final.
CREATE TABLE usage.seal (
    organisation_id text NOT NULL REFERENCES catalogue.organisation (id),
    year integer NOT NULL,
    month integer NOT NULL CHECK (month BETWEEN 1 AND 12),
    cut_id bigint NOT NULL REFERENCES usage.cut (id),
    sealed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organisation_id, year, month)
);

-- Identities for deduplication: 16-byte digest of (project, live or test, source, id), without the time.
CREATE TABLE usage.generation (
    id integer PRIMARY KEY,
    opened_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz,               -- a closed generation is immutable
    identity_count bigint,
    fingerprint_high bigint,
    fingerprint_low bigint
);
CREATE UNIQUE INDEX generation_one_open ON usage.generation ((closed_at IS NULL)) WHERE closed_at IS NULL;

CREATE TABLE usage.identity (
    generation integer NOT NULL,
    key uuid NOT NULL,
    fingerprint bigint NOT NULL,         -- of (type, subject, data): equal = duplicate, other = conflict
    partition integer NOT NULL,
    log_offset bigint NOT NULL,          -- where in usage.events.v1 the event stands that was counted
    PRIMARY KEY (generation, key)
) PARTITION BY LIST (generation);
CREATE TABLE usage.identity_1 PARTITION OF usage.identity FOR VALUES IN (1);
INSERT INTO usage.generation (id) VALUES (1);

CREATE TABLE usage.window (
    organisation_id text NOT NULL,
    project_id text NOT NULL,
    live boolean NOT NULL,
    subject text NOT NULL,
    meter_id text NOT NULL,
    meter_version integer NOT NULL,
    dimensions text NOT NULL DEFAULT '', -- canonical JSON of the group-by values; empty without any
    hour timestamptz NOT NULL,           -- UTC instant at which the hour starts in the organisation's time zone
    count bigint NOT NULL,
    sum numeric NOT NULL,
    fingerprint_high bigint NOT NULL,    -- sums of the halves of a 64-bit hash of each identity counted
    fingerprint_low bigint NOT NULL,
    revision bigint NOT NULL DEFAULT 1,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, live, subject, meter_id, meter_version, dimensions, hour)
) WITH (fillfactor = 70);
CREATE INDEX window_by_organisation ON usage.window (organisation_id, hour);

-- The archive: every record of an offset range that one batch moved, compressed, with one disposition byte each.
CREATE TABLE usage.segment (
    topic text NOT NULL,
    partition integer NOT NULL,
    first_offset bigint NOT NULL,
    last_offset bigint NOT NULL,
    record_count integer NOT NULL CHECK (record_count > 0),
    earliest_time timestamptz,           -- of the events inside; null when none could be decoded
    latest_time timestamptz,
    dispositions bytea NOT NULL,         -- one ASCII letter per record: shared/usage/segment.py
    sha256 bytea NOT NULL,               -- of the uncompressed payload
    payload bytea NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition, first_offset),
    CHECK (last_offset >= first_offset),
    CHECK (octet_length(dispositions) = record_count)
);
ALTER TABLE usage.segment ALTER COLUMN payload SET STORAGE EXTERNAL; -- compressed already
CREATE INDEX segment_by_time ON usage.segment (earliest_time, latest_time);

-- Same identity, other payload: the first stands, the other is kept and shown.
CREATE TABLE usage.conflict (
    organisation_id text NOT NULL,
    project_id text NOT NULL,
    key uuid NOT NULL,
    fingerprint bigint NOT NULL,
    partition integer NOT NULL,
    log_offset bigint NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, log_offset)
);
CREATE INDEX conflict_by_key ON usage.conflict (key);

-- Usage that arrived after its month was sealed: kept, and billed by a later document.
CREATE TABLE usage.adjustment (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organisation_id text NOT NULL,
    project_id text NOT NULL,
    subject text NOT NULL,
    meter_id text NOT NULL,
    meter_version integer NOT NULL,
    hour timestamptz NOT NULL,
    key uuid NOT NULL,
    value numeric NOT NULL,
    partition integer NOT NULL,
    log_offset bigint NOT NULL,
    billed_by text,                      -- the document that billed it; null = unbilled
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (key, meter_id, meter_version)
);

GRANT USAGE ON SCHEMA usage TO khata_aggregator, khata_invoicer, khata_catalogue, khata_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA usage TO khata_reader, khata_invoicer, khata_aggregator;
GRANT INSERT ON usage.identity, usage.segment, usage.conflict, usage.adjustment TO khata_aggregator;
GRANT INSERT, UPDATE ON usage.window TO khata_aggregator;
GRANT INSERT ON usage.seal, usage.cut TO khata_invoicer;
GRANT SELECT, UPDATE ON usage.epoch TO khata_invoicer, khata_catalogue;
GRANT EXECUTE ON FUNCTION usage.end_stale_holders TO khata_aggregator, khata_invoicer, khata_catalogue;
