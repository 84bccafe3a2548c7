-- Prices, invoices, numbers. Written by the invoicer alone.
CREATE SCHEMA billing;

CREATE TABLE billing.seller (
    id text PRIMARY KEY DEFAULT 'seller' CHECK (id = 'seller'),
    name text NOT NULL,
    gstin text NOT NULL,
    state_code text NOT NULL,
    address text NOT NULL,
    series text NOT NULL DEFAULT 'KH',   -- first part of every invoice number
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- A version of a price never changes. Organisation null = the default for everyone.
CREATE TABLE billing.price (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item text NOT NULL,                  -- 'meter:<meter id>' or 'flat:<name>'
    organisation_id text REFERENCES catalogue.organisation (id),
    valid_from date NOT NULL,            -- local day of the organisation
    currency text NOT NULL,
    model text NOT NULL CHECK (model IN ('per_unit', 'flat')),
    definition jsonb NOT NULL,           -- the model's parameters, amounts as decimal text
    description text NOT NULL,
    sac text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (item, organisation_id, valid_from)
);

-- One row per organisation and month, locked first by whoever drafts its invoice.
CREATE TABLE billing.period (
    organisation_id text NOT NULL REFERENCES catalogue.organisation (id),
    year integer NOT NULL,
    month integer NOT NULL CHECK (month BETWEEN 1 AND 12),
    PRIMARY KEY (organisation_id, year, month)
);

CREATE TABLE billing.invoice (
    id uuid PRIMARY KEY,
    organisation_id text NOT NULL REFERENCES catalogue.organisation (id),
    kind text NOT NULL DEFAULT 'monthly' CHECK (kind IN ('monthly')),
    year integer NOT NULL,
    month integer NOT NULL CHECK (month BETWEEN 1 AND 12),
    state text NOT NULL CHECK (state IN ('draft', 'finalized', 'cancelled')),
    currency text NOT NULL,
    cut_id bigint NOT NULL REFERENCES usage.cut (id),
    subtotal_minor bigint NOT NULL,
    discount_minor bigint NOT NULL CHECK (discount_minor BETWEEN 0 AND subtotal_minor),
    tax_minor bigint NOT NULL CHECK (tax_minor >= 0),
    total_minor bigint NOT NULL,
    content jsonb NOT NULL,              -- the canonical document (services/invoicer/document.py)
    content_text text NOT NULL,          -- its exact canonical bytes, what the hash is over
    content_sha256 bytea NOT NULL,
    engine_version text NOT NULL,
    number text CHECK (number ~ '^[A-Z1-9][A-Z0-9/-]{0,15}$'), -- CGST Rule 46(b): at most 16 characters
    issued_on date,
    created_at timestamptz NOT NULL DEFAULT now(),
    finalized_at timestamptz,
    cancelled_at timestamptz,
    CONSTRAINT total_adds_up CHECK (total_minor = subtotal_minor - discount_minor + tax_minor),
    CONSTRAINT number_once_finalized CHECK ((state = 'draft') = (number IS NULL) OR state = 'cancelled'),
    CONSTRAINT number_has_date CHECK ((number IS NULL) = (issued_on IS NULL))
);
-- R2.1: at most one invoice that stands per organisation and month.
CREATE UNIQUE INDEX one_monthly_invoice ON billing.invoice (organisation_id, year, month)
    WHERE state <> 'cancelled' AND kind = 'monthly';
CREATE UNIQUE INDEX invoice_number ON billing.invoice (number);

CREATE TABLE billing.invoice_line (
    invoice_id uuid NOT NULL REFERENCES billing.invoice (id),
    position integer NOT NULL,
    item text NOT NULL,
    description text NOT NULL,
    sac text,                            -- null for an informational line, which is no supply
    first_day date NOT NULL,             -- local days on which its price holds, both inclusive
    last_day date NOT NULL,
    quantity numeric NOT NULL,
    unit text NOT NULL,
    billable boolean NOT NULL,
    price_id bigint REFERENCES billing.price (id),
    exact_amount numeric(38, 12) NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
    PRIMARY KEY (invoice_id, position),
    CHECK (billable = (price_id IS NOT NULL)),
    CHECK (billable = (sac IS NOT NULL)),
    CHECK (billable OR amount_minor = 0),
    CHECK (first_day <= last_day)
);

CREATE TABLE billing.invoice_tax (
    invoice_id uuid NOT NULL REFERENCES billing.invoice (id),
    head text NOT NULL,
    rate numeric(6, 3) NOT NULL,
    taxable_minor bigint NOT NULL,
    amount_minor bigint NOT NULL,
    PRIMARY KEY (invoice_id, head, rate)
);

-- One row per (GSTIN, series, financial year): locked last while finalizing, so numbers have no gaps.
CREATE TABLE billing.number_series (
    gstin text NOT NULL,
    series text NOT NULL,
    financial_year text NOT NULL,
    next_number integer NOT NULL DEFAULT 1 CHECK (next_number > 0),
    last_issued_on date NOT NULL,        -- dates of a series never go back while its numbers go up
    PRIMARY KEY (gstin, series, financial_year)
);

-- R2.2: key `invoice_{org}_{year}_{month}` -> the invoice that stands; cancelling retires the row.
CREATE TABLE billing.idempotency (
    key text NOT NULL,
    parameters_sha256 bytea NOT NULL,
    invoice_id uuid NOT NULL REFERENCES billing.invoice (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz
);
CREATE UNIQUE INDEX idempotency_standing ON billing.idempotency (key) WHERE retired_at IS NULL;

-- R2.5: every attempt to make an invoice, for the counters of the long-running process (a command is gone
-- before anything could read its own).
CREATE TABLE billing.attempt (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('created', 'replayed', 'lost_race', 'refused', 'parked')),
    actor text NOT NULL,
    attempted_at timestamptz NOT NULL DEFAULT now(),
    created_by_xid xid8 NOT NULL DEFAULT pg_current_xact_id() -- what the exporter goes on from
);
CREATE INDEX attempt_by_xid ON billing.attempt (created_by_xid);

-- Something that needs a person.
CREATE TABLE billing.case (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    class text NOT NULL,
    object_id text NOT NULL,
    organisation_id text NOT NULL,
    evidence jsonb NOT NULL,
    proposed_action text NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz
);
CREATE UNIQUE INDEX case_open ON billing.case (class, object_id) WHERE closed_at IS NULL;

-- Once finalized, an invoice and its parts never change. What is finalized adds up, whoever wrote it.
CREATE FUNCTION billing.keep_finalized() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of_lines bigint;
    of_taxes bigint;
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        RAISE EXCEPTION 'invoices are never deleted; cancel it' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF OLD.state <> 'draft' AND (to_jsonb(NEW) - '{state,cancelled_at}'::text[])
                            IS DISTINCT FROM (to_jsonb(OLD) - '{state,cancelled_at}'::text[]) THEN
        RAISE EXCEPTION 'invoice % is %; its content never changes', OLD.number, OLD.state
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT (OLD.state = NEW.state
            OR (OLD.state = 'draft' AND NEW.state IN ('finalized', 'cancelled'))
            OR (OLD.state = 'finalized' AND NEW.state = 'cancelled')) THEN
        RAISE EXCEPTION 'an invoice cannot go from % to %', OLD.state, NEW.state
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF OLD.state = 'draft' AND NEW.state = 'finalized' THEN
        SELECT coalesce(sum(amount_minor), 0) INTO of_lines FROM billing.invoice_line WHERE invoice_id = NEW.id;
        SELECT coalesce(sum(amount_minor), 0) INTO of_taxes FROM billing.invoice_tax WHERE invoice_id = NEW.id;
        IF of_lines <> NEW.subtotal_minor OR of_taxes <> NEW.tax_minor THEN
            RAISE EXCEPTION 'invoice %: lines sum to % and taxes to %, but it says % and %',
                NEW.id, of_lines, of_taxes, NEW.subtotal_minor, NEW.tax_minor USING ERRCODE = 'check_violation';
        END IF;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER invoice_keep_finalized BEFORE UPDATE OR DELETE ON billing.invoice
    FOR EACH ROW EXECUTE FUNCTION billing.keep_finalized();
CREATE TRIGGER invoice_keep_all BEFORE TRUNCATE ON billing.invoice
    FOR EACH STATEMENT EXECUTE FUNCTION billing.keep_finalized();

CREATE FUNCTION billing.keep_parts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of_invoice record;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'the parts of invoices are never deleted' USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- Both sides: a part must not leave a finalized invoice either. The lock waits for a finalization in flight.
    FOR of_invoice IN
        SELECT state FROM billing.invoice WHERE id IN (OLD.invoice_id, NEW.invoice_id) ORDER BY id FOR SHARE
    LOOP
        IF of_invoice.state <> 'draft' THEN
            RAISE EXCEPTION 'the parts of a finalized invoice never change' USING ERRCODE = 'insufficient_privilege';
        END IF;
    END LOOP;
    RETURN coalesce(NEW, OLD);
END
$$;
CREATE TRIGGER line_keep_finalized BEFORE INSERT OR UPDATE OR DELETE ON billing.invoice_line
    FOR EACH ROW EXECUTE FUNCTION billing.keep_parts();
CREATE TRIGGER line_keep_all BEFORE TRUNCATE ON billing.invoice_line
    FOR EACH STATEMENT EXECUTE FUNCTION billing.keep_parts();
CREATE TRIGGER tax_keep_finalized BEFORE INSERT OR UPDATE OR DELETE ON billing.invoice_tax
    FOR EACH ROW EXECUTE FUNCTION billing.keep_parts();
CREATE TRIGGER tax_keep_all BEFORE TRUNCATE ON billing.invoice_tax
    FOR EACH STATEMENT EXECUTE FUNCTION billing.keep_parts();
CREATE TRIGGER price_immutable BEFORE UPDATE OR DELETE ON billing.price
    FOR EACH ROW EXECUTE FUNCTION audit.refuse_change();

GRANT USAGE ON SCHEMA billing TO khata_invoicer, khata_payments, khata_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA billing TO khata_invoicer, khata_reader;
GRANT SELECT ON billing.invoice TO khata_payments;
GRANT INSERT, UPDATE ON billing.seller, billing.number_series TO khata_invoicer;
GRANT INSERT ON billing.price, billing.period, billing.invoice, billing.invoice_line, billing.invoice_tax,
    billing.idempotency, billing.attempt, billing.case TO khata_invoicer;
GRANT UPDATE (year) ON billing.period TO khata_invoicer; -- for SELECT ... FOR UPDATE; nothing updates it
GRANT UPDATE (state, content, content_text, content_sha256, number, issued_on, finalized_at, cancelled_at)
    ON billing.invoice TO khata_invoicer;
GRANT UPDATE (retired_at) ON billing.idempotency TO khata_invoicer;
GRANT UPDATE (evidence, proposed_action, closed_at) ON billing.case TO khata_invoicer;
