-- An operator's word that a silent spool need not be waited for; what it still holds becomes adjustments.
CREATE TABLE billing.spool_waiver (
    spool_id text NOT NULL,
    waived_at timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL,
    actor text NOT NULL,
    PRIMARY KEY (spool_id, waived_at)
);
CREATE TRIGGER spool_waiver_append_only BEFORE UPDATE OR DELETE ON billing.spool_waiver
    FOR EACH ROW EXECUTE FUNCTION audit.refuse_change();
GRANT SELECT, INSERT ON billing.spool_waiver TO khata_invoicer;
GRANT SELECT ON billing.spool_waiver TO khata_reader;
