-- The ledger: double entry, append-only, zero per currency. Written by invoicer and payments through shared/ledger.
CREATE SCHEMA ledger;

CREATE TABLE ledger.posting (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,                  -- invoice_finalized, payment_captured, ...
    object_id text NOT NULL,             -- the invoice's or the provider's object id: posted once per (kind, object)
    organisation_id text NOT NULL,
    invoice_id uuid,
    posted_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (kind, object_id)
);

CREATE TABLE ledger.entry (
    posting_id bigint NOT NULL REFERENCES ledger.posting (id),
    position integer NOT NULL,
    account text NOT NULL,               -- shared/ledger/accounts.py
    amount_minor bigint NOT NULL CHECK (amount_minor <> 0), -- debit positive, credit negative
    currency text NOT NULL,
    organisation_id text NOT NULL,
    invoice_id uuid,
    PRIMARY KEY (posting_id, position)
);
CREATE INDEX entry_by_invoice ON ledger.entry (invoice_id);

-- Balances are kept only per invoice and per customer; everything else is summed from entries.
CREATE TABLE ledger.invoice_balance (
    invoice_id uuid PRIMARY KEY,
    organisation_id text NOT NULL,
    currency text NOT NULL,
    receivable_minor bigint NOT NULL CHECK (receivable_minor >= 0)
);
CREATE TABLE ledger.customer_balance (
    organisation_id text NOT NULL,
    currency text NOT NULL,
    credit_minor bigint NOT NULL CHECK (credit_minor >= 0),
    PRIMARY KEY (organisation_id, currency)
);

CREATE FUNCTION ledger.check_zero() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    broken record;
BEGIN
    SELECT currency, sum(amount_minor) AS difference INTO broken
    FROM ledger.entry WHERE posting_id = NEW.posting_id
    GROUP BY currency HAVING sum(amount_minor) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'posting % does not sum to zero in %: %', NEW.posting_id, broken.currency, broken.difference
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER entry_sums_to_zero AFTER INSERT ON ledger.entry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger.check_zero();
CREATE TRIGGER posting_append_only BEFORE UPDATE OR DELETE ON ledger.posting
    FOR EACH ROW EXECUTE FUNCTION audit.refuse_change();
CREATE TRIGGER entry_append_only BEFORE UPDATE OR DELETE ON ledger.entry
    FOR EACH ROW EXECUTE FUNCTION audit.refuse_change();

GRANT USAGE ON SCHEMA ledger TO khata_invoicer, khata_payments, khata_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO khata_invoicer, khata_payments, khata_reader;
GRANT INSERT ON ledger.posting, ledger.entry TO khata_invoicer, khata_payments;
GRANT INSERT, UPDATE ON ledger.invoice_balance, ledger.customer_balance TO khata_invoicer, khata_payments;
