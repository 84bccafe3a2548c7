-- Corrections: events that take another event back (void) or give it other data (amend).
CREATE TABLE usage.correction (
    key uuid PRIMARY KEY,                -- identity of the correction itself
    organisation_id text NOT NULL,
    project_id text NOT NULL,
    live boolean NOT NULL,
    subject text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('void', 'amend')),
    event_id text NOT NULL,
    target_key uuid NOT NULL,
    target_source text NOT NULL,
    target_id text NOT NULL,
    reason text NOT NULL DEFAULT '',     -- as its sender says
    data bytea,                          -- of an amend: the target's new data, canonical JSON
    partition integer NOT NULL,          -- where in usage.events.v1 the correction stands
    log_offset bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('parked', 'applied', 'refused')),
    -- Applied as: 'window', a part of its month for ever, because the month was open; 'adjustment', after the seal;
    -- 'nothing', because the target was accepted without a meter, so it is in no sum.
    applied_as text CHECK (applied_as IN ('window', 'adjustment', 'nothing')),
    code text,                           -- why it is parked (target_unknown, other_subject) or refused
    explanation text,                    -- of the code, for people
    target_partition integer,            -- where the target stands; null while it is not known
    target_offset bigint,
    target_hour timestamptz,             -- its local hour's start: which windows and which month
    sequence bigint,                     -- in what order corrections were applied: the last one of a target stands
    arrived_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz,
    CHECK ((kind = 'amend') = (data IS NOT NULL)),
    CHECK ((state = 'applied') = (applied_as IS NOT NULL)),
    CHECK ((state = 'applied') = (sequence IS NOT NULL)),
    CHECK ((state = 'applied') = (code IS NULL)),
    CHECK ((state = 'parked') = (decided_at IS NULL)),
    CHECK (state <> 'applied' OR (target_partition IS NOT NULL AND target_offset IS NOT NULL AND target_hour IS NOT NULL))
);
CREATE SEQUENCE usage.correction_sequence;
CREATE INDEX correction_by_target ON usage.correction (target_key);
-- Every batch asks whether there is any: nearly always none.
CREATE INDEX correction_parked ON usage.correction (target_key) WHERE state = 'parked';
CREATE INDEX correction_by_hour ON usage.correction (organisation_id, target_hour) WHERE state = 'applied';
CREATE INDEX correction_by_place ON usage.correction (partition, log_offset);
CREATE INDEX correction_by_arrival ON usage.correction (arrived_at);

-- Windows whose minimum, maximum or latest an applied correction may have changed: a worker looks at their events again
-- (services/aggregator/corrections/dirty.py). A month is not sealed while one of its windows is dirty.
CREATE TABLE usage.dirty_window (
    organisation_id text NOT NULL,
    project_id text NOT NULL,
    live boolean NOT NULL,
    subject text NOT NULL,
    meter_id text NOT NULL,
    meter_version integer NOT NULL,
    dimensions text NOT NULL,
    hour timestamptz NOT NULL,
    marks bigint NOT NULL DEFAULT 1,     -- one more with every correction: what was read before is not enough then
    cleaned bigint NOT NULL DEFAULT 0,   -- up to which mark its events were looked at; dirty while it is below `marks`
    since timestamptz NOT NULL DEFAULT now(),
    CHECK (cleaned <= marks),
    PRIMARY KEY (project_id, live, subject, meter_id, meter_version, dimensions, hour)
);
CREATE INDEX dirty_window_dirty ON usage.dirty_window (organisation_id, hour) WHERE cleaned < marks;

-- Adjustments: the signed readings by which a month differs from what was sealed.
--
-- To price a month again: its events as sealed (windows; for minimum, maximum, latest and unique_count its events from
-- the segments below the cut), plus every reading with sign 1, minus every one with sign -1, of the rows that stand
-- (taken_back_by is null). A reading with sign -1 is one that is in the sealed windows or in a row with sign 1 that has
-- been billed; it carries key, time, value and digest, so that it can be taken out of any aggregation exactly.
ALTER TABLE usage.adjustment
    ADD COLUMN kind text NOT NULL DEFAULT 'late' CHECK (kind IN ('late', 'void', 'amend')),
    ADD COLUMN sign smallint NOT NULL DEFAULT 1 CHECK (sign IN (1, -1)),
    ADD COLUMN correction_key uuid REFERENCES usage.correction (key),  -- which correction made it; a late event's: null
    -- The correction that replaced it before it was billed: it stays for the record, and counts no more.
    ADD COLUMN taken_back_by uuid REFERENCES usage.correction (key),
    ADD CHECK ((kind = 'late') = (correction_key IS NULL)),
    ADD CHECK (kind <> 'late' OR sign = 1),
    ADD CHECK (taken_back_by IS NULL OR billed_by IS NULL),
    DROP CONSTRAINT adjustment_key_meter_id_meter_version_key;
CREATE UNIQUE INDEX adjustment_late_once ON usage.adjustment (key, meter_id, meter_version) WHERE kind = 'late';
CREATE UNIQUE INDEX adjustment_of_correction_once
    ON usage.adjustment (correction_key, meter_id, meter_version, sign, dimensions, value, digest) NULLS NOT DISTINCT
    WHERE kind <> 'late';
CREATE INDEX adjustment_by_key ON usage.adjustment (key);

-- What a late event does to a month that is sealed: it is billed by the next invoice, or its reading is not taken.
ALTER TABLE catalogue.meter
    ADD COLUMN late text NOT NULL DEFAULT 'next_invoice' CHECK (late IN ('next_invoice', 'reject'));

GRANT SELECT ON usage.correction, usage.dirty_window TO khata_reader, khata_invoicer, khata_aggregator;
GRANT INSERT ON usage.correction TO khata_aggregator;
GRANT UPDATE (state, applied_as, code, explanation, target_partition, target_offset, target_hour, sequence, decided_at)
    ON usage.correction TO khata_aggregator;
GRANT USAGE ON SEQUENCE usage.correction_sequence TO khata_aggregator;
GRANT INSERT, UPDATE (marks, cleaned, since) ON usage.dirty_window TO khata_aggregator;
GRANT UPDATE (taken_back_by) ON usage.adjustment TO khata_aggregator;
