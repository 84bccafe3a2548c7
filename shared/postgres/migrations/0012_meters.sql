-- All aggregations: what a meter may be, and what its windows keep for it.
ALTER TABLE catalogue.meter DROP CONSTRAINT meter_aggregation_check;
ALTER TABLE catalogue.meter ADD CONSTRAINT meter_aggregation_check CHECK (
    aggregation IN ('count', 'sum', 'min', 'max', 'avg', 'latest', 'unique_count', 'weighted_sum')
);
ALTER TABLE catalogue.meter
    ADD COLUMN clamp_min numeric,            -- a value below is taken as this one
    ADD COLUMN clamp_max numeric,
    ADD COLUMN filters jsonb NOT NULL DEFAULT '[]',   -- [{"path", "operator", "values"}]: shared/domain/filter.py
    ADD COLUMN group_by jsonb NOT NULL DEFAULT '{}',  -- {name of the dimension: path inside data}
    ADD CHECK (clamp_min <= clamp_max);

-- Additive parts beside count and sum; each only where the meter's aggregation needs it (shared/usage/parts.py).
ALTER TABLE usage.window
    ADD COLUMN minimum numeric,
    ADD COLUMN maximum numeric,
    ADD COLUMN latest_time timestamptz,
    ADD COLUMN latest_id text COLLATE "C",   -- in the order of code points, as everywhere else
    ADD COLUMN latest_value numeric,
    ADD COLUMN moment numeric;               -- sum of value times microseconds since 1970

-- For unique_count: which values a window has seen, and in how many events, so that taking one away is exact too.
CREATE TABLE usage.distinct_value (
    organisation_id text NOT NULL,
    project_id text NOT NULL,
    live boolean NOT NULL,
    subject text NOT NULL,
    meter_id text NOT NULL,
    meter_version integer NOT NULL,
    dimensions text NOT NULL,
    hour timestamptz NOT NULL,
    digest uuid NOT NULL,                -- of the value in one spelling
    events bigint NOT NULL,
    PRIMARY KEY (project_id, live, subject, meter_id, meter_version, dimensions, hour, digest)
) WITH (fillfactor = 70);
CREATE INDEX distinct_value_by_organisation ON usage.distinct_value (organisation_id, meter_id, hour);

-- A late event carries its whole reading, so that every aggregation can be priced again with it.
ALTER TABLE usage.adjustment
    ADD COLUMN dimensions text NOT NULL DEFAULT '',
    ADD COLUMN time timestamptz,
    ADD COLUMN event_id text COLLATE "C",
    ADD COLUMN digest uuid;

GRANT SELECT ON usage.distinct_value TO khata_reader, khata_invoicer, khata_aggregator;
GRANT INSERT, UPDATE ON usage.distinct_value TO khata_aggregator;
