-- The sandbox's whole state. Bodies are the entities as JSON; the columns beside them are what is searched for.

CREATE TABLE IF NOT EXISTS entities (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT    NOT NULL CHECK (kind IN ('order', 'payment', 'payment_link', 'refund')),
    id         TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    reference  TEXT,    -- order: receipt; payment_link: reference_id
    parent     TEXT,    -- order: its link; payment: its order; refund: its payment
    due_at     INTEGER, -- payment_link: when it expires, while it is open
    body       TEXT    NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS entities_newest ON entities (kind, created_at, seq);
CREATE INDEX IF NOT EXISTS entities_reference ON entities (kind, reference) WHERE reference IS NOT NULL;
CREATE INDEX IF NOT EXISTS entities_parent ON entities (kind, parent) WHERE parent IS NOT NULL;
CREATE INDEX IF NOT EXISTS entities_due ON entities (due_at) WHERE due_at IS NOT NULL;
-- A link's reference_id is never used twice; an order's receipt may be.
CREATE UNIQUE INDEX IF NOT EXISTS links_reference ON entities (reference)
    WHERE kind = 'payment_link' AND reference IS NOT NULL;

CREATE TABLE IF NOT EXISTS refund_keys (
    key         TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL, -- payment and body of the first request
    refund_id   TEXT NOT NULL REFERENCES entities (id)
) STRICT;

CREATE TABLE IF NOT EXISTS events (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    body       BLOB NOT NULL, -- the exact bytes of every attempt
    signature  TEXT,          -- made when the event happened: retries keep the secret of that moment
    created_at REAL NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS deliveries (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id   TEXT    NOT NULL REFERENCES events (id),
    state      TEXT    NOT NULL CHECK (state IN ('pending', 'delivered', 'dropped', 'abandoned')),
    next_at    REAL    NOT NULL,
    rung       INTEGER NOT NULL DEFAULT 0,
    quick_used INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (next_at) WHERE state = 'pending';

CREATE TABLE IF NOT EXISTS attempts (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery INTEGER NOT NULL REFERENCES deliveries (seq),
    at       REAL    NOT NULL,
    status   INTEGER,          -- null: no answer
    problem  TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS attempts_delivery ON attempts (delivery);

CREATE TABLE IF NOT EXISTS flags (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
