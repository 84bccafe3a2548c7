-- Who is billed, by whom, for what is counted. Prices belong to the invoicer (0005).
CREATE SCHEMA catalogue;

CREATE TABLE catalogue.organisation (
    id text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    version integer NOT NULL DEFAULT 1,
    name text NOT NULL,
    currency text NOT NULL DEFAULT 'INR' CHECK (currency ~ '^[A-Z]{3}$'),
    time_zone text NOT NULL DEFAULT 'Asia/Kolkata',
    country text NOT NULL DEFAULT 'IN' CHECK (country ~ '^[A-Z]{2}$'),
    state_code text,                     -- GST state code of the address, where the country is IN
    gstin text,
    address text NOT NULL DEFAULT '',
    email text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE catalogue.project (
    id text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    organisation_id text NOT NULL REFERENCES catalogue.organisation (id),
    version integer NOT NULL DEFAULT 1,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organisation_id, id)
);

CREATE TABLE catalogue.api_key (
    id text PRIMARY KEY,                 -- the public 16 characters inside the key
    organisation_id text NOT NULL,
    project_id text NOT NULL,
    version integer NOT NULL DEFAULT 1,
    name text NOT NULL,
    live boolean NOT NULL,
    secret_hash bytea NOT NULL,          -- HMAC-SHA256(pepper, secret); the secret itself is nowhere
    pepper_id text NOT NULL,
    scopes text[] NOT NULL DEFAULT '{events:write}',
    expires_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (organisation_id, project_id) REFERENCES catalogue.project (organisation_id, id),
    UNIQUE (project_id, name)
);

-- What is counted. A definition never changes; another one is the next version, from a future hour on.
CREATE TABLE catalogue.meter (
    id text NOT NULL CHECK (id ~ '^[a-z0-9][a-z0-9_]{0,62}$'),
    version integer NOT NULL DEFAULT 1 CHECK (version > 0),
    name text NOT NULL,
    event_type text NOT NULL,
    aggregation text NOT NULL CHECK (aggregation IN ('count', 'sum')),
    value_path text,                     -- dotted path inside `data`; required unless count
    unit text NOT NULL DEFAULT 'unit',
    billable boolean NOT NULL DEFAULT true,
    effective_from timestamptz NOT NULL DEFAULT '-infinity',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, version),
    CHECK ((aggregation = 'count') = (value_path IS NULL))
);

GRANT USAGE ON SCHEMA catalogue
    TO khata_aggregator, khata_invoicer, khata_payments, khata_catalogue, khata_reader;
GRANT SELECT ON catalogue.organisation, catalogue.project, catalogue.meter
    TO khata_aggregator, khata_invoicer, khata_payments, khata_reader;
GRANT SELECT, INSERT, UPDATE ON catalogue.organisation, catalogue.project, catalogue.api_key TO khata_catalogue;
GRANT SELECT, INSERT ON catalogue.meter TO khata_catalogue;
