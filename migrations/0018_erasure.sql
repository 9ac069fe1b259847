-- Erasing what is personal of an account or a provider. The rows themselves stay, because the books refer to their ids.
ALTER TABLE accounts ADD COLUMN erased_at BIGINT;
-- What an act did, as JSON, where its answer alone does not say it to whoever reads the log: counts, never contents.
ALTER TABLE audit_log ADD COLUMN detail TEXT NOT NULL DEFAULT '';
-- Idempotency keys are the callers' own words: they leave the log when they are forgotten, found by their age.
CREATE INDEX IF NOT EXISTS audit_log_keys ON audit_log (at) WHERE idempotency_key <> '';
