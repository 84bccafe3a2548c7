-- Application roles. The owner (who runs migrations) owns every table; a service acts as its own
-- role, which can do only what the grants in the following files say. Roles belong to the whole
-- server, so another database's migration may have made them already, or make them right now.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY[
        'khata_aggregator', 'khata_invoicer', 'khata_payments', 'khata_catalogue', 'khata_reader'
    ] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- made by a migration beside us
        END;
        -- Always: from PostgreSQL 16 on whoever made a role is its member without the right to act as it.
        EXECUTE format('GRANT %I TO %I', wanted, current_user);
    END LOOP;
END
$$;
