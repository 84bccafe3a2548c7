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
CREATE INDEX outbox_published ON messaging.outbox (topic, published_at) WHERE published_at IS NOT NULL;

-- Which messages a consumer has already applied, for those that are not fenced by an offset alone.
CREATE TABLE messaging.inbox (
    consumer text NOT NULL,
    message_id text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, message_id)
);
CREATE INDEX inbox_by_age ON messaging.inbox (received_at);

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
CREATE INDEX intent_done ON messaging.intent (updated_at) WHERE state = 'done';

-- Purges. No role may delete a row: each calls a function of the owner's that knows how long a row is needed, takes
-- at most so many, the oldest first, and passes over what another purge holds. Returns how many went.
CREATE FUNCTION messaging.purge_outbox(of_topic text, most integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH gone AS (
        DELETE FROM messaging.outbox WHERE id = ANY (ARRAY(
            SELECT id FROM messaging.outbox
            WHERE topic = of_topic AND published_at < now() - interval '7 days'
            ORDER BY published_at LIMIT most FOR UPDATE SKIP LOCKED
        )) RETURNING 1
    ) SELECT count(*) FROM gone
$$;
-- Longer than a topic of webhooks is kept (30 days) and than Razorpay repeats a delivery.
CREATE FUNCTION messaging.purge_inbox(of_consumer text, most integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH gone AS (
        DELETE FROM messaging.inbox WHERE consumer = of_consumer AND message_id = ANY (ARRAY(
            SELECT message_id FROM messaging.inbox
            WHERE consumer = of_consumer AND received_at < now() - interval '100 days'
            ORDER BY received_at LIMIT most FOR UPDATE SKIP LOCKED
        )) RETURNING 1
    ) SELECT count(*) FROM gone
$$;
-- What was done; a failed intent waits for a person however old it is.
CREATE FUNCTION messaging.purge_intents(of_kind text, most integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH gone AS (
        DELETE FROM messaging.intent WHERE id = ANY (ARRAY(
            SELECT id FROM messaging.intent
            WHERE kind = of_kind AND state = 'done' AND updated_at < now() - interval '400 days'
            ORDER BY updated_at LIMIT most FOR UPDATE SKIP LOCKED
        )) RETURNING 1
    ) SELECT count(*) FROM gone
$$;

-- A service moves its own groups only: `[<prefix>]khata.<service>[.<purpose>]` (shared/contracts/topics.py, Names).
CREATE FUNCTION messaging.own_groups_only() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    service text := substring(current_user FROM '^khata_(aggregator|invoicer|payments|catalogue|reader)$');
    own text := '(^|\.)khata\.' || service || '(\.[^.]+)?$';
BEGIN
    -- null: the owner, who may move any
    IF service IS NOT NULL
       AND (NEW.consumer_group !~ own OR (TG_OP = 'UPDATE' AND OLD.consumer_group !~ own)) THEN
        RAISE EXCEPTION 'the group % is not one of %', NEW.consumer_group, current_user
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER consumer_offset_own_groups BEFORE INSERT OR UPDATE ON messaging.consumer_offset
    FOR EACH ROW EXECUTE FUNCTION messaging.own_groups_only();

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
GRANT SELECT, INSERT, UPDATE (published_at) ON messaging.outbox
    TO khata_aggregator, khata_invoicer, khata_payments, khata_catalogue;
GRANT SELECT, INSERT ON messaging.inbox TO khata_payments, khata_aggregator;
GRANT SELECT, INSERT, UPDATE ON messaging.intent TO khata_payments;
GRANT SELECT, INSERT ON audit.entry TO khata_aggregator, khata_invoicer, khata_payments, khata_catalogue;
REVOKE ALL ON FUNCTION messaging.purge_outbox, messaging.purge_inbox, messaging.purge_intents FROM PUBLIC;
GRANT EXECUTE ON FUNCTION messaging.purge_outbox
    TO khata_aggregator, khata_invoicer, khata_payments, khata_catalogue;
GRANT EXECUTE ON FUNCTION messaging.purge_inbox, messaging.purge_intents TO khata_payments;
