-- What we know of Razorpay's objects. Written by payments alone.
CREATE SCHEMA payments;

-- One payment link per finalized invoice. Made by an intent; reference_id is ours and deterministic.
CREATE TABLE payments.link (
    reference_id text PRIMARY KEY,       -- at most 40 characters
    invoice_id uuid NOT NULL UNIQUE,
    organisation_id text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency text NOT NULL,
    link_id text UNIQUE,                 -- plink_..., once Razorpay has answered
    order_id text UNIQUE,                -- order_..., once the customer has opened the link
    short_url text,
    status text NOT NULL DEFAULT 'intended'
        CHECK (status IN ('intended', 'created', 'partially_paid', 'paid', 'expired', 'cancelled')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Facts of one payment, moved forward by rank only (created < failed < authorized < captured < refunded).
CREATE TABLE payments.payment (
    id text PRIMARY KEY,                 -- pay_...
    status text NOT NULL,
    rank integer NOT NULL,
    amount_minor bigint NOT NULL,
    currency text NOT NULL,
    order_id text,
    link_id text,
    method text,
    fee_minor bigint,                    -- Razorpay's fee, GST on it included
    tax_minor bigint,
    refunded_minor bigint NOT NULL DEFAULT 0, -- given back so far
    organisation_id text,                -- whose it is, once it is posted
    invoice_id uuid,
    posted_at timestamptz,               -- when the ledger got its capture; null: not captured, or parked with a case
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX payment_by_order ON payments.payment (order_id);
CREATE INDEX payment_by_link ON payments.payment (link_id);
CREATE INDEX payment_by_invoice ON payments.payment (invoice_id);

-- What webhooks say of a link, ours or not: a webhook may come before the answer that tells us the link's id.
CREATE TABLE payments.link_fact (
    link_id text PRIMARY KEY,            -- plink_...
    order_id text,
    status text NOT NULL,
    rank integer NOT NULL,               -- created < partially_paid < expired, cancelled < paid
    amount_minor bigint NOT NULL,
    amount_paid_minor bigint NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- What does not match is a case with a class, never a guess.
CREATE TABLE payments.case (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    class text NOT NULL,                 -- razorpay.md 4.2: orphan, amount_mismatch, duplicate, ...
    object_id text NOT NULL,
    organisation_id text,
    evidence jsonb NOT NULL,
    proposed_action text NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz
);
CREATE UNIQUE INDEX case_open ON payments.case (class, object_id) WHERE closed_at IS NULL;

GRANT USAGE ON SCHEMA payments TO khata_payments, khata_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA payments TO khata_payments, khata_reader;
GRANT INSERT, UPDATE ON payments.link, payments.link_fact, payments.payment, payments.case TO khata_payments;
