-- Rotation: the new key takes the name over, the old one stays until its grace ends. Limits of keys and organisations.
ALTER TABLE catalogue.organisation
    ADD COLUMN limit_per_second integer CHECK (limit_per_second > 0), -- events; null: unlimited
    ADD COLUMN limit_burst integer CHECK (limit_burst > 0),
    ADD CHECK ((limit_per_second IS NULL) = (limit_burst IS NULL));

ALTER TABLE catalogue.api_key
    ADD COLUMN limit_per_second integer CHECK (limit_per_second > 0),
    ADD COLUMN limit_burst integer CHECK (limit_burst > 0),
    ADD CHECK ((limit_per_second IS NULL) = (limit_burst IS NULL)),
    -- deferred: the old key gives the name up before the new one is there to point to
    ADD COLUMN replaced_by text REFERENCES catalogue.api_key (id) DEFERRABLE INITIALLY DEFERRED,
    ADD CHECK (replaced_by <> id),
    DROP CONSTRAINT api_key_project_id_name_key;
CREATE UNIQUE INDEX one_key_holds_a_name ON catalogue.api_key (project_id, name) WHERE replaced_by IS NULL;
CREATE INDEX api_key_by_name ON catalogue.api_key (project_id, name);

-- What proves a key never changes, and what is over stays over, whoever asks.
REVOKE UPDATE ON catalogue.api_key FROM khata_catalogue;
GRANT UPDATE (
    version, expires_at, revoked_at, replaced_by, limit_per_second, limit_burst, updated_at
) ON catalogue.api_key TO khata_catalogue;
CREATE FUNCTION catalogue.over_stays_over() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.version <= OLD.version THEN
        RAISE EXCEPTION 'key %: a change needs the next version, readers ignore it otherwise', OLD.id;
    END IF;
    IF OLD.revoked_at IS DISTINCT FROM NEW.revoked_at AND OLD.revoked_at IS NOT NULL THEN
        RAISE EXCEPTION 'key % is revoked, and stays so', OLD.id;
    END IF;
    IF OLD.replaced_by IS DISTINCT FROM NEW.replaced_by AND OLD.replaced_by IS NOT NULL THEN
        RAISE EXCEPTION 'key % is replaced by %, and stays so', OLD.id, OLD.replaced_by;
    END IF;
    IF OLD.expires_at <= now() AND NEW.expires_at IS DISTINCT FROM OLD.expires_at THEN
        RAISE EXCEPTION 'key % is expired, and stays so', OLD.id;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER over_stays_over BEFORE UPDATE ON catalogue.api_key
    FOR EACH ROW EXECUTE FUNCTION catalogue.over_stays_over();
