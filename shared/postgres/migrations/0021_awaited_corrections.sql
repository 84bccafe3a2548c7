-- Every batch asks which events parked corrections wait for. Those of another subject wait for none, and may be many.
CREATE INDEX correction_awaited ON usage.correction (target_key) WHERE state = 'parked' AND code = 'target_unknown';
