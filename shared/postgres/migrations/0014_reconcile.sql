-- Reconciliation: what was found to differ, when it was looked for, and what a repair needs.
CREATE TABLE usage.finding (
    key text PRIMARY KEY,                -- the same difference found again is the same row
    class text NOT NULL,
    organisation_id text,
    project_id text,
    meter_id text,
    hour timestamptz,                    -- of windows and adjustments
    partition integer,                   -- of usage.events.v1, with the offsets it is about
    first_offset bigint,
    last_offset bigint,
    text text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now(),
    gone_at timestamptz                  -- looked for again and no longer there; null = open
);
CREATE INDEX finding_open ON usage.finding (class) WHERE gone_at IS NULL;
CREATE INDEX finding_by_age ON usage.finding (gone_at) WHERE gone_at IS NOT NULL;

-- A run that came to its end, whatever it found.
CREATE TABLE usage.reconcile_run (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('hourly', 'daily', 'manual')),
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT now(),
    findings bigint NOT NULL
);
CREATE INDEX reconcile_run_by_kind ON usage.reconcile_run (kind, period_end);

-- Segments come in order of time, so a few pages tell which were stored in a period.
CREATE INDEX segment_by_stored_at ON usage.segment USING brin (stored_at);

GRANT SELECT, INSERT ON usage.reconcile_run TO khata_aggregator;
GRANT SELECT, INSERT, UPDATE ON usage.finding TO khata_aggregator;
GRANT SELECT ON usage.finding, usage.reconcile_run TO khata_reader, khata_invoicer;
-- A repair stops all batches for its transaction.
GRANT UPDATE ON usage.epoch TO khata_aggregator;

-- A repair takes away a window that no stored event supports. Never one of a sealed month.
CREATE FUNCTION usage.remove_window(
    of_project text, of_live boolean, of_subject text, of_meter text, of_version integer, of_dimensions text,
    of_hour timestamptz
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF of_live AND EXISTS (
        SELECT FROM catalogue.project
        JOIN catalogue.organisation ON organisation.id = project.organisation_id
        JOIN usage.seal ON seal.organisation_id = organisation.id
            AND seal.year = extract(year FROM of_hour AT TIME ZONE organisation.time_zone)
            AND seal.month = extract(month FROM of_hour AT TIME ZONE organisation.time_zone)
        WHERE project.id = of_project
    ) THEN
        RAISE EXCEPTION 'the month of this window is sealed' USING ERRCODE = 'insufficient_privilege';
    END IF;
    DELETE FROM usage.distinct_value
    WHERE (project_id, live, subject, meter_id, meter_version, dimensions, hour)
        = (of_project, of_live, of_subject, of_meter, of_version, of_dimensions, of_hour);
    DELETE FROM usage."window"
    WHERE (project_id, live, subject, meter_id, meter_version, dimensions, hour)
        = (of_project, of_live, of_subject, of_meter, of_version, of_dimensions, of_hour);
    RETURN FOUND;
END
$$;
-- Runs and findings that are gone are kept as long as anybody asks about a bill.
CREATE FUNCTION usage.purge_reconcile(most integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH gone AS (
        DELETE FROM usage.finding WHERE key = ANY (ARRAY(
            SELECT key FROM usage.finding
            WHERE gone_at < now() - interval '400 days' ORDER BY gone_at LIMIT most FOR UPDATE SKIP LOCKED
        )) RETURNING 1
    ), old AS (
        DELETE FROM usage.reconcile_run WHERE id = ANY (ARRAY(
            SELECT id FROM usage.reconcile_run
            WHERE finished_at < now() - interval '400 days' ORDER BY id LIMIT most FOR UPDATE SKIP LOCKED
        )) RETURNING 1
    ) SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM old)
$$;
REVOKE ALL ON FUNCTION usage.remove_window, usage.purge_reconcile FROM PUBLIC;
GRANT EXECUTE ON FUNCTION usage.remove_window, usage.purge_reconcile TO khata_aggregator;
