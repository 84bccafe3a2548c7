-- Back-fills: a new meter counts events from before it was made, up to a cut.
CREATE TABLE usage.backfill (
    cut_id bigint PRIMARY KEY REFERENCES usage.cut (id),
    topic text NOT NULL,
    stored_before timestamptz NOT NULL,  -- segments stored later were counted with the meter by their batch
    finished_at timestamptz
);
CREATE TABLE usage.backfill_meter (
    meter_id text NOT NULL,
    meter_version integer NOT NULL,
    cut_id bigint NOT NULL REFERENCES usage.backfill (cut_id),
    events bigint NOT NULL DEFAULT 0,    -- counted so far
    refused bigint NOT NULL DEFAULT 0,   -- whose data the meter does not take: left out
    PRIMARY KEY (meter_id, meter_version),
    FOREIGN KEY (meter_id, meter_version) REFERENCES catalogue.meter (id, version)
);
-- Everything below next_offset is counted; it moves in the transaction that changes the windows.
CREATE TABLE usage.backfill_progress (
    cut_id bigint NOT NULL REFERENCES usage.backfill (cut_id),
    partition integer NOT NULL,
    start_offset bigint NOT NULL,
    next_offset bigint NOT NULL CHECK (next_offset BETWEEN start_offset AND end_offset),
    end_offset bigint NOT NULL,
    PRIMARY KEY (cut_id, partition)
);

GRANT SELECT ON usage.backfill, usage.backfill_meter, usage.backfill_progress
    TO khata_aggregator, khata_invoicer, khata_catalogue, khata_reader;
GRANT UPDATE (finished_at) ON usage.backfill TO khata_aggregator;
GRANT UPDATE (events, refused) ON usage.backfill_meter TO khata_aggregator;
GRANT UPDATE (next_offset) ON usage.backfill_progress TO khata_aggregator;
-- The catalogue takes the cut when it makes the meter.
GRANT SELECT, INSERT ON usage.cut TO khata_catalogue;
GRANT INSERT ON usage.backfill, usage.backfill_meter, usage.backfill_progress TO khata_catalogue;
GRANT USAGE ON SCHEMA messaging TO khata_catalogue;
GRANT SELECT ON messaging.consumer_offset TO khata_catalogue;
GRANT SELECT (topic, partition, first_offset, last_offset) ON usage.segment TO khata_catalogue;
