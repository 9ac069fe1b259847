-- What the operator does over HTTP: which calls have been answered, and who did what.

-- One row for each `Idempotency-Key` of an operator's, written first in the transaction that acts; the answer comes with
-- the commit. Secrets are left out of `body`. Rows go after 30 days.
CREATE TABLE idempotency_keys (
    scope TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    status BIGINT NOT NULL DEFAULT 0,
    body TEXT NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL,
    PRIMARY KEY (scope, idempotency_key)
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);

-- Insert-only. Never a body: it may hold a secret.
CREATE TABLE audit_log (
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    subject TEXT NOT NULL,
    issuer TEXT NOT NULL,
    role TEXT NOT NULL,
    method TEXT NOT NULL,
    route TEXT NOT NULL,
    resource TEXT NOT NULL,
    status BIGINT NOT NULL,
    request_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL
);
CREATE INDEX audit_log_subject ON audit_log (subject, id);
CREATE INDEX audit_log_resource ON audit_log (resource, id);

-- The same refund is not paid twice.
CREATE UNIQUE INDEX postings_refund ON postings (reference) WHERE kind = 'refund' AND reference <> '';

-- Insert-only: a model's reference prices, each from `valid_from` until the next one's. The history stays when a model
-- leaves the catalogue. What `models` says is for gateways that do not know this table.
CREATE TABLE model_prices (
    model TEXT NOT NULL,
    valid_from BIGINT NOT NULL,
    prompt_price BIGINT NOT NULL CHECK (prompt_price >= 0),
    completion_price BIGINT NOT NULL CHECK (completion_price >= 0),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (model, valid_from)
);
INSERT INTO model_prices (model, valid_from, prompt_price, completion_price, created_at)
    SELECT id, created_at, prompt_price, completion_price, created_at FROM models;
