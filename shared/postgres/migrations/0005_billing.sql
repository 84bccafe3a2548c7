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
    number text,
    issued_on date,
    created_at timestamptz NOT NULL DEFAULT now(),
    finalized_at timestamptz,
    cancelled_at timestamptz,
    CONSTRAINT total_adds_up CHECK (total_minor = subtotal_minor - discount_minor + tax_minor),
    CONSTRAINT number_once_finalized CHECK ((state = 'draft') = (number IS NULL) OR state = 'cancelled')
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
    sac text NOT NULL,
    quantity numeric NOT NULL,
    unit text NOT NULL,
    billable boolean NOT NULL,
    price_id bigint REFERENCES billing.price (id),
    exact_amount numeric(38, 12) NOT NULL,
    amount_minor bigint NOT NULL,
    PRIMARY KEY (invoice_id, position)
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

-- Once finalized, an invoice and its parts never change.
CREATE FUNCTION billing.keep_finalized() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
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
    RETURN NEW;
END
$$;
CREATE TRIGGER invoice_keep_finalized BEFORE UPDATE OR DELETE ON billing.invoice
    FOR EACH ROW EXECUTE FUNCTION billing.keep_finalized();

CREATE FUNCTION billing.keep_parts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM billing.invoice
               WHERE id = coalesce(NEW.invoice_id, OLD.invoice_id) AND state <> 'draft') THEN
        RAISE EXCEPTION 'the parts of a finalized invoice never change' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;
CREATE TRIGGER line_keep_finalized BEFORE INSERT OR UPDATE OR DELETE ON billing.invoice_line
    FOR EACH ROW EXECUTE FUNCTION billing.keep_parts();
CREATE TRIGGER tax_keep_finalized BEFORE INSERT OR UPDATE OR DELETE ON billing.invoice_tax
    FOR EACH ROW EXECUTE FUNCTION billing.keep_parts();
CREATE TRIGGER price_immutable BEFORE UPDATE OR DELETE ON billing.price
    FOR EACH ROW EXECUTE FUNCTION audit.refuse_change();

GRANT USAGE ON SCHEMA billing TO khata_invoicer, khata_payments, khata_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA billing TO khata_invoicer, khata_reader;
GRANT SELECT ON billing.invoice TO khata_payments;
GRANT INSERT, UPDATE ON billing.seller, billing.invoice, billing.number_series, billing.idempotency, billing.case
    TO khata_invoicer;
GRANT INSERT ON billing.price TO khata_invoicer;
GRANT INSERT, DELETE ON billing.invoice_line, billing.invoice_tax TO khata_invoicer;
