-- What every service stands on: consumer offsets, outbox, inbox, intents, audit.
CREATE SCHEMA messaging;
CREATE SCHEMA audit;

-- Where a consumer group goes on. Moved by compare-and-set inside the transaction that applies the records.
CREATE TABLE messaging.consumer_offset (
    consumer_group text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL CHECK (partition >= 0),
    next_offset bigint NOT NULL CHECK (next_offset >= 0),
    last_offset bigint,      -- the last record applied, to see that the log is still the one we read
    last_digest bytea,       -- sha256 over its offset, timestamp, key and value
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer_group, topic, partition)
) WITH (fillfactor = 50);

-- What must leave for a topic. Relayed in order of id by one leader per topic, below the snapshot's xmin.
CREATE TABLE messaging.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key bytea NOT NULL,
    value bytea,
    headers jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    published_at timestamptz
);
CREATE INDEX outbox_pending ON messaging.outbox (topic, id) WHERE published_at IS NULL;

-- Which messages a consumer has already applied, for those that are not fenced by an offset alone.
CREATE TABLE messaging.inbox (
    consumer text NOT NULL,
    message_id text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, message_id)
);

-- What must leave for the outside world. A worker claims it, acts, and records the outcome; an attempt
-- without an outcome is `unknown` and is looked up at the provider before it is ever repeated.
CREATE TABLE messaging.intent (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    key text NOT NULL,
    organisation_id text NOT NULL,
    payload jsonb NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'claimed', 'done', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL DEFAULT now(),
    claimed_until timestamptz,
    result jsonb,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (kind, key)
);
CREATE INDEX intent_due ON messaging.intent (kind, due_at) WHERE state IN ('pending', 'claimed');

-- Who did what, when. Appended in the transaction of what it records; never changed.
CREATE TABLE audit.entry (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organisation_id text,
    actor text NOT NULL,
    action text NOT NULL,
    object_kind text NOT NULL,
    object_id text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    occurred_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX entry_by_object ON audit.entry (object_kind, object_id);

CREATE FUNCTION audit.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER entry_append_only BEFORE UPDATE OR DELETE ON audit.entry
    FOR EACH ROW EXECUTE FUNCTION audit.refuse_change();

GRANT USAGE ON SCHEMA messaging, audit
    TO khata_aggregator, khata_invoicer, khata_payments, khata_catalogue, khata_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA messaging, audit TO khata_reader, khata_invoicer;
GRANT SELECT, INSERT, UPDATE ON messaging.consumer_offset TO khata_aggregator, khata_payments;
GRANT SELECT, INSERT, UPDATE ON messaging.outbox
    TO khata_aggregator, khata_invoicer, khata_payments, khata_catalogue;
GRANT SELECT, INSERT ON messaging.inbox TO khata_payments, khata_aggregator;
GRANT SELECT, INSERT, UPDATE ON messaging.intent TO khata_payments;
GRANT SELECT, INSERT ON audit.entry TO khata_aggregator, khata_invoicer, khata_payments, khata_catalogue;
