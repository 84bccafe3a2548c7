-- Findings about hours of usage beside those about keys.
ALTER TABLE usage.anomaly DROP CONSTRAINT anomaly_class_check;
ALTER TABLE usage.anomaly
    ADD CONSTRAINT anomaly_class_check CHECK (class IN (
        'new_address', 'spike', 'silent', 'failure_burst',
        'hour_spike', 'hour_drop', 'negative_quantity', 'late_change'
    )),
    ALTER COLUMN key_id DROP NOT NULL,
    ADD COLUMN subject text,             -- of a finding about a window, whose hour starts at `minute`
    ADD COLUMN meter_id text,
    ADD COLUMN meter_version integer,
    ADD COLUMN dimensions text,
    ADD COLUMN quantity numeric,
    ADD COLUMN usual_quantity numeric,
    ADD CHECK ((key_id IS NULL) = (subject IS NOT NULL AND meter_id IS NOT NULL));
