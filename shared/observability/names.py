"""Every metric Khata exports, once, with what it means. Base units; never a customer's id as a label."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# HTTP doors
HTTP_REQUESTS = Counter("khata_http_requests", "Answered requests", ["route", "status"])
HTTP_SECONDS = Histogram("khata_http_request_duration_seconds", "Time to answer", ["route"], buckets=SECONDS)

# Ingest
EVENTS_ACCEPTED = Counter("khata_events_accepted", "Events acked by Kafka", ["door"])
EVENTS_REJECTED = Counter("khata_events_rejected", "Events refused at the door", ["door", "code"])
KAFKA_DOOR_OPEN = Gauge("khata_kafka_door_open", "1 while the Kafka door reads; 0 when something in the log stops it")
CATALOGUE_AT_END = Gauge("khata_catalogue_at_end", "1 while the catalogue cache has read its topic to the end")
CATALOGUE_FRESH_AT = Gauge(
    "khata_catalogue_fresh_timestamp_seconds",
    "When the catalogue cache last held all of its topic: now minus staleness",
)
KEY_PEPPER_UNKNOWN = Counter("khata_key_pepper_unknown", "Calls with a key under a pepper we lack", ["pepper"])
EVENTS_LIMITED = Counter("khata_events_limited", "Events of calls refused by a limit: key, organisation", ["limit"])
LIVE_PROCESSES = Gauge("khata_ingest_live_processes", "Ingest processes that share the limits, as this one counts them")
KEY_ACTIVITY_DROPPED = Counter(
    "khata_key_activity_dropped", "Minutes of a key given up because Kafka was away too long"
)

# The spool
SPOOL_BYTES = Gauge("khata_spool_bytes", "Size of the spool on its disk, log included")
SPOOL_CAP_BYTES = Gauge("khata_spool_cap_bytes", "Largest size its file may have")
SPOOL_UNSENT = Gauge("khata_spool_unsent_events", "Accepted events that Kafka has not acknowledged")
SPOOL_OLDEST_SECONDS = Gauge("khata_spool_oldest_unsent_seconds", "Age of the oldest of them, 0 without any")
SPOOL_SET_ASIDE = Gauge("khata_spool_set_aside_events", "Events that Kafka refuses for good; they wait for a person")
SPOOL_LOST = Gauge("khata_spool_lost_events", "Accepted events that a damaged write-ahead log has lost")
SPOOL_APPENDED = Counter("khata_spool_appended", "Events fsynced in the spool")
SPOOL_FORWARDED = Counter("khata_spool_forwarded", "Events of the spool acked by Kafka and marked")
SPOOL_PURGED = Counter("khata_spool_purged", "Events purged after they were consumed")
SPOOL_REFUSED = Counter("khata_spool_refused", "Calls refused: full, not_registered", ["reason"])
SPOOL_FAILURES = Counter("khata_spool_failures", "Failures of append, forward, mark, purge, publish", ["operation"])

# The consumer loop
RECORDS_APPLIED = Counter("khata_consumer_records", "Records whose effect is durable", ["group", "topic"])
BATCHES = Counter("khata_consumer_batches", "Batches by outcome: applied, retried, fenced", ["group", "outcome"])
BATCH_SECONDS = Histogram("khata_consumer_batch_seconds", "Time to apply one batch", ["group"], buckets=SECONDS)
LAG_RECORDS = Gauge("khata_consumer_lag_records", "Log end minus next offset", ["group", "topic", "partition"])
LOOP_SEEN = Gauge("khata_consumer_loop_timestamp_seconds", "When the loop last turned", ["group"])
DEAD_LETTERS = Counter("khata_dead_letters", "Records written to a dead-letter topic", ["topic", "code"])

# Aggregator
EVENTS_APPLIED = Counter("khata_usage_events", "Events by disposition", ["disposition"])
CORRECTIONS = Counter(
    "khata_corrections",
    "Corrections by what became of them: window, adjustment, nothing (applied as that), parked, refused",
    ["outcome"],
)
CORRECTIONS_PARKED = Gauge("khata_corrections_parked", "Corrections whose target is not known")
CORRECTION_PARKED_OLDEST = Gauge(
    "khata_correction_parked_oldest_seconds", "Since when the oldest of them waits, 0 without any"
)
DIRTY_WINDOWS = Gauge("khata_dirty_windows", "Windows to look at again after a correction; no month is sealed with one")
DIRTY_WINDOW_OLDEST = Gauge("khata_dirty_window_oldest_seconds", "Since when the oldest is dirty, 0 without any")
DIRTY_WINDOWS_CLEANED = Counter("khata_dirty_windows_cleaned", "Windows looked at again after a correction")
CORRECTION_FAILURES = Counter("khata_correction_failures", "Looks at corrections and dirty windows put off")
IDENTITY_GENERATIONS = Gauge(
    "khata_identity_generations",
    "Generations of identities: open, filtered (closed, this process has its filter), unfiltered",
    ["state"],
)
IDENTITY_KEYS = Gauge("khata_identity_keys", "Identities kept, to a page of the open table: open, closed", ["state"])
IDENTITY_FILTER_CHECKS = Counter(
    "khata_identity_filter_checks", "Keys asked of a closed generation's filter, by answer: maybe, no", ["answer"]
)
IDENTITY_PROBES = Counter(
    "khata_identity_probes", "Keys looked up in a closed generation: found, not_found", ["outcome"]
)
IDENTITY_FILTERS_IGNORED = Counter(
    "khata_identity_filters_ignored", "Filter files that do not count: foreign, damaged, unsafe", ["reason"]
)
IDENTITY_KEEPER_FAILURES = Counter(
    "khata_identity_keeper_failures",
    "Work on generations put off: database, filter (its file), differs (a table is not what was counted)",
    ["reason"],
)
WINDOWS_PUBLISHED = Counter("khata_windows_published", "Records of usage.windows.v1 acked by Kafka", ["origin"])
WINDOWS_DROPPED = Counter("khata_windows_dropped", "Changed windows given up in memory; found again by the archive")
WINDOWS_WAITING = Gauge(
    "khata_windows_waiting_seconds", "How long the oldest batch has waited for its windows to be published, 0 without"
)
WINDOWS_FAILURES = Counter("khata_windows_failures", "Turns of publishing put off: Kafka or Postgres away")
BACKFILL_RECORDS = Counter("khata_backfill_records", "Old records read for new meters")
BACKFILL_LEFT = Gauge(
    "khata_backfill_left_records", "Offsets that new meters have still to read, at the process that does"
)
BACKFILL_FAILURES = Counter("khata_backfill_failures", "Back-fills stopped by a segment that cannot be read")
ADVICE_READ = Gauge("khata_advice_read", "1 while key activity and findings are stored; 0 when something stops that")
KEY_ACTIVITY_STORED = Counter("khata_key_activity_stored", "Minutes of a key stored")
ANOMALIES_FOUND = Counter("khata_anomalies", "Findings stored, each once", ["class"])
DEAD_LETTERS_READ = Gauge("khata_dead_letters_read", "1 while dead letters are stored; 0 when something stops that")
DEAD_LETTERS_STORED = Counter("khata_dead_letters_stored", "Dead letters stored in Postgres, each once")
# `topic` of both: without prefix, the raw topics of all projects as one.
DEAD_LETTERS_OPEN = Gauge("khata_dead_letters_open", "Stored and neither redriven nor dropped", ["topic", "code"])
DEAD_LETTER_OLDEST = Gauge(
    "khata_dead_letter_oldest_seconds", "Time since the oldest open one failed, 0 without any", ["topic", "code"]
)

# Reconciliation
RECONCILE_FINDINGS = Gauge("khata_reconcile_findings", "Open findings, whichever process found them", ["class"])
RECONCILE_SUCCESS_AT = Gauge(
    "khata_reconcile_success_timestamp_seconds", "When the last run came to its end: hourly, daily, manual", ["kind"]
)
RECONCILE_FAILURES = Counter("khata_reconcile_failures", "Scheduled runs that came to no end")

# Watch
WATCH_READ = Counter(
    "khata_watch_records", "Records of key activity by outcome: seen, again, ahead, unreadable, failed", ["outcome"]
)
WATCH_FINDINGS = Counter("khata_watch_findings", "Findings published (a repetition has the same id)", ["class"])
WATCH_FAILURES = Counter("khata_watch_failures", "Looks at keys that failed, and states that could not be read")

# Outbox and intents
OUTBOX_PUBLISHED = Counter("khata_outbox_published", "Outbox rows acked by Kafka", ["topic"])
OUTBOX_PENDING = Gauge("khata_outbox_pending", "Outbox rows not yet acked", ["topic"])
OUTBOX_LEADER = Gauge("khata_outbox_leader", "1 while this process relays the topic", ["topic"])
INTENTS = Counter("khata_intents", "Attempts at the outside world by outcome", ["kind", "outcome"])

# Invoicer
INVOICE_ATTEMPTS = Counter("khata_invoice_attempts", "created, replayed, lost_race, refused, parked", ["outcome"])
INVOICE_CASES = Gauge("khata_invoice_cases_open", "Cases of invoices that wait for a person", ["class"])
INVOICES_VERIFIED = Counter("khata_invoices_verified", "Recomputed from segments: equal or drift", ["outcome"])

# Payments
WEBHOOKS = Counter("khata_webhook_deliveries", "Deliveries by result", ["result"])
PAYMENTS_POSTED = Counter("khata_payments", "Payments by what became of them", ["outcome"])
