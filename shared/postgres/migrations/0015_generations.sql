-- Generations of identities: rolled, counted, detached and dropped. Each step is a function of the owner, for an
-- application role makes no tables; each can be done twice, so a crash between two steps leaves nothing to repair.
ALTER TABLE usage.generation
    ADD COLUMN detached_at timestamptz,  -- older than any event that is taken: no batch reads it any more
    ADD COLUMN dropped_at timestamptz,   -- its table is gone
    ADD CHECK (identity_count IS NULL OR closed_at IS NOT NULL),
    ADD CHECK ((identity_count IS NULL) = (fingerprint_high IS NULL)),
    ADD CHECK ((identity_count IS NULL) = (fingerprint_low IS NULL)),
    ADD CHECK (detached_at IS NULL OR closed_at IS NOT NULL),
    ADD CHECK (dropped_at IS NULL OR detached_at IS NOT NULL);

CREATE FUNCTION usage.closed_generation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is a closed generation: it never changes again', TG_TABLE_NAME USING ERRCODE = 'KH001';
END
$$;

-- The epoch lock, exclusive, of this session; for the functions below may only run under it.
CREATE FUNCTION usage.require_epoch_exclusive() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    lock_key CONSTANT bigint := 118083422217064; -- shared/postgres/epoch.py
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND mode = 'ExclusiveLock' AND pid = pg_backend_pid()
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND classid = (lock_key >> 32)::oid AND objid = (lock_key & 4294967295)::oid
    ) THEN
        RAISE EXCEPTION 'not without the epoch lock, exclusive';
    END IF;
END
$$;

-- Keys that the generation may hold at most, from the size of its table: cheap, and right to a page as long as hardly
-- any batch is rolled back. 76 bytes are one row's 72 (24 header, 48 data) and its pointer; 24 are a page's header.
CREATE FUNCTION usage.generation_size(generation integer) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT pg_relation_size(to_regclass('usage.identity_' || generation)) / page.bytes * ((page.bytes - 24) / 76)
    FROM (SELECT current_setting('block_size')::bigint AS bytes) AS page
$$;

-- Closes the open generation if it is `expected` and not empty, and opens the next one; returns the new one's id, or
-- null when there is nothing to do. Only catalogue work and locks that no reader waits for: milliseconds.
CREATE FUNCTION usage.roll_generation(expected integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    opened CONSTANT integer := expected + 1;
    opened_table CONSTANT text := 'identity_' || opened;
BEGIN
    PERFORM usage.require_epoch_exclusive();
    PERFORM FROM usage.identity WHERE generation = expected LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE usage.generation SET closed_at = clock_timestamp() WHERE id = expected AND closed_at IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    EXECUTE format('CREATE TABLE usage.%I (LIKE usage.identity INCLUDING ALL)', opened_table);
    EXECUTE format('ALTER TABLE usage.identity ATTACH PARTITION usage.%I FOR VALUES IN (%s)', opened_table, opened);
    INSERT INTO usage.generation (id, opened_at) VALUES (opened, clock_timestamp());
    RETURN opened;
END
$$;

-- From here on nothing changes a closed generation, whoever tries. Not part of the roll: it waits for a vacuum of the
-- table, and nobody should wait with it.
CREATE FUNCTION usage.freeze_generation(closed integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM FROM usage.generation WHERE id = closed AND closed_at IS NOT NULL AND detached_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'generation % is not closed', closed;
    END IF;
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER closed BEFORE INSERT OR UPDATE OR DELETE ON usage.%I
         FOR EACH ROW EXECUTE FUNCTION usage.closed_generation()', 'identity_' || closed
    );
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER closed_truncate BEFORE TRUNCATE ON usage.%I
         EXECUTE FUNCTION usage.closed_generation()', 'identity_' || closed
    );
END
$$;

-- What the keys of a frozen generation are, once; false when it was told before. Batches reload with the epoch.
CREATE FUNCTION usage.count_generation(closed integer, keys bigint, high bigint, low bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM usage.require_epoch_exclusive();
    UPDATE usage.generation SET identity_count = keys, fingerprint_high = high, fingerprint_low = low
    WHERE id = closed AND closed_at IS NOT NULL AND identity_count IS NULL;
    RETURN FOUND;
END
$$;

-- Detaches the oldest generation that was closed longer ago than `keep`; returns its id, null without any.
CREATE FUNCTION usage.detach_generation(keep interval) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    oldest integer;
BEGIN
    PERFORM usage.require_epoch_exclusive();
    UPDATE usage.generation SET detached_at = clock_timestamp() WHERE id = (
        SELECT min(id) FROM usage.generation WHERE detached_at IS NULL AND closed_at < clock_timestamp() - keep
    ) RETURNING id INTO oldest;
    IF oldest IS NOT NULL THEN
        EXECUTE format('ALTER TABLE usage.identity DETACH PARTITION usage.%I', 'identity_' || oldest);
    END IF;
    RETURN oldest;
END
$$;

-- Drops the table of a detached generation, outside of the epoch lock; returns its id, null without any.
CREATE FUNCTION usage.drop_generation() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    oldest integer;
BEGIN
    UPDATE usage.generation SET dropped_at = clock_timestamp() WHERE id = (
        SELECT min(id) FROM usage.generation WHERE detached_at IS NOT NULL AND dropped_at IS NULL
    ) RETURNING id INTO oldest;
    IF oldest IS NOT NULL THEN
        EXECUTE format('DROP TABLE usage.%I', 'identity_' || oldest);
    END IF;
    RETURN oldest;
END
$$;

REVOKE ALL ON FUNCTION usage.closed_generation, usage.require_epoch_exclusive, usage.generation_size,
    usage.roll_generation, usage.freeze_generation, usage.count_generation, usage.detach_generation,
    usage.drop_generation FROM PUBLIC;
GRANT EXECUTE ON FUNCTION usage.roll_generation, usage.freeze_generation, usage.count_generation,
    usage.detach_generation, usage.drop_generation TO khata_aggregator;
GRANT EXECUTE ON FUNCTION usage.generation_size TO khata_aggregator, khata_reader;
