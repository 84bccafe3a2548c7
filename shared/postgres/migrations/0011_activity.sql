-- What keys did, by minute, and what watch found unusual. Advice: nothing here is billed or let in by.
CREATE TABLE usage.key_activity (
    key_id text NOT NULL,                -- of no table: `unknown`, `door:<project>`, and keys that are not fed here yet
    minute timestamptz NOT NULL,
    process_id text NOT NULL,
    project_id text,
    organisation_id text,                -- null for `unknown`
    calls bigint NOT NULL CHECK (calls >= 0),
    accepted bigint NOT NULL CHECK (accepted >= 0),
    rejected bigint NOT NULL CHECK (rejected >= 0),
    failed jsonb NOT NULL DEFAULT '{}',  -- calls by code
    addresses text[] NOT NULL DEFAULT '{}',
    address_count integer NOT NULL DEFAULT 0,
    addresses_overflow boolean NOT NULL DEFAULT false,
    PRIMARY KEY (key_id, minute, process_id)
);
-- Rows come in order of time, so a few pages tell where the old ones end.
CREATE INDEX key_activity_by_minute ON usage.key_activity USING brin (minute);

CREATE TABLE usage.anomaly (
    id text PRIMARY KEY,
    class text NOT NULL CHECK (class IN ('new_address', 'spike', 'silent', 'failure_burst')),
    key_id text NOT NULL,
    project_id text,
    organisation_id text,
    minute timestamptz NOT NULL,
    observed bigint NOT NULL,
    usual bigint NOT NULL,
    text text NOT NULL,
    address text,
    stored_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX anomaly_by_minute ON usage.anomaly (minute);
CREATE INDEX anomaly_by_project ON usage.anomaly (project_id, minute);

GRANT SELECT, INSERT ON usage.key_activity, usage.anomaly TO khata_aggregator;
GRANT SELECT ON usage.key_activity, usage.anomaly TO khata_catalogue, khata_reader;

-- Addresses are personal data even as hashes: nothing is kept longer than it is looked at. At most so many rows a call.
CREATE FUNCTION usage.purge_key_activity(most integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH gone AS (
        DELETE FROM usage.key_activity WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM usage.key_activity
            WHERE minute < now() - interval '35 days' LIMIT most FOR UPDATE SKIP LOCKED
        )) RETURNING 1
    ) SELECT count(*) FROM gone
$$;
CREATE FUNCTION usage.purge_anomalies(most integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH gone AS (
        DELETE FROM usage.anomaly WHERE id = ANY (ARRAY(
            SELECT id FROM usage.anomaly
            WHERE minute < now() - interval '90 days' ORDER BY minute LIMIT most FOR UPDATE SKIP LOCKED
        )) RETURNING 1
    ) SELECT count(*) FROM gone
$$;
REVOKE ALL ON FUNCTION usage.purge_key_activity, usage.purge_anomalies FROM PUBLIC;
GRANT EXECUTE ON FUNCTION usage.purge_key_activity, usage.purge_anomalies TO khata_aggregator;
