-- What keys and accounts may do. No row, or null: no such limit.

-- A management key makes and changes its account's keys, and can ask for nothing else.
ALTER TABLE api_keys ADD COLUMN management BIGINT NOT NULL DEFAULT 0;
-- Out of use, for now: unlike revoked_at it can be taken back.
ALTER TABLE api_keys ADD COLUMN disabled BIGINT NOT NULL DEFAULT 0;

-- `owner` is an account's id or a key's. Budgets in nano-dollars, by days, weeks (from Monday) and months, UTC, or in all.
-- `models`: a JSON array of catalogue ids. A key is good until `expires_at`.
CREATE TABLE limits (
    owner TEXT PRIMARY KEY,
    budget_day BIGINT CHECK (budget_day >= 0),
    budget_week BIGINT CHECK (budget_week >= 0),
    budget_month BIGINT CHECK (budget_month >= 0),
    budget_total BIGINT CHECK (budget_total >= 0),
    models TEXT,
    requests_per_minute BIGINT CHECK (requests_per_minute >= 0),
    tokens_per_minute BIGINT CHECK (tokens_per_minute >= 0),
    concurrent_requests BIGINT CHECK (concurrent_requests >= 0),
    expires_at BIGINT,
    allow_probation BIGINT NOT NULL DEFAULT 1
);
