-- Changed windows leave for usage.windows.v1. Nothing here is written by a batch.

-- Windows of all batches below this offset of usage.events.v1 are published.
CREATE TABLE usage.window_cursor (
    topic text NOT NULL,
    partition integer NOT NULL,
    published_offset bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

-- Windows that changed without a batch: entered in the transaction that changes them, forgotten once published.
CREATE TABLE usage.changed_window (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organisation_id text NOT NULL,
    project_id text NOT NULL,
    live boolean NOT NULL,
    subject text NOT NULL,
    meter_id text NOT NULL,
    meter_version integer NOT NULL,
    dimensions text NOT NULL,
    hour timestamptz NOT NULL
);

CREATE FUNCTION usage.forget_changed_windows(entries bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM usage.changed_window WHERE id = ANY (entries)
$$;
REVOKE ALL ON FUNCTION usage.forget_changed_windows FROM PUBLIC;
GRANT EXECUTE ON FUNCTION usage.forget_changed_windows TO khata_aggregator;

-- A window that no event supports any more is emptied and stays: its revision must never begin anew, or who has read
-- a higher one would never believe it again. Never one of a sealed month.
CREATE OR REPLACE FUNCTION usage.remove_window(
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
    UPDATE usage."window" SET
        count = 0, sum = 0, fingerprint_high = 0, fingerprint_low = 0, minimum = NULL, maximum = NULL,
        latest_time = NULL, latest_id = NULL, latest_value = NULL, moment = NULL,
        revision = revision + 1, updated_at = now()
    WHERE (project_id, live, subject, meter_id, meter_version, dimensions, hour)
        = (of_project, of_live, of_subject, of_meter, of_version, of_dimensions, of_hour);
    RETURN FOUND;
END
$$;

GRANT SELECT, INSERT, UPDATE ON usage.window_cursor TO khata_aggregator;
GRANT SELECT, INSERT ON usage.changed_window TO khata_aggregator;
GRANT SELECT ON usage.window_cursor, usage.changed_window TO khata_reader;
