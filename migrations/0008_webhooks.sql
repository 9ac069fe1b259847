-- What the operator's own systems are told: accounts whose balance runs low, and what becomes of payouts.

-- `webhooks` is locked by whoever writes events, or adds or removes an endpoint: one at a time. The other two say how far
-- payouts were read, Unix microseconds.
INSERT INTO counters (name, value) VALUES ('webhooks', 0);
INSERT INTO counters (name, value) SELECT 'webhooks_created', COALESCE(MAX(created_at), 0) FROM payouts;
INSERT INTO counters (name, value) SELECT 'webhooks_decided', COALESCE(MAX(decided_at), 0) FROM payouts;
CREATE INDEX payouts_created ON payouts (created_at);
CREATE INDEX payouts_decided ON payouts (decided_at) WHERE decided_at IS NOT NULL;

-- `events`: what it is told of, with commas between. `secret` signs what is sent, so it cannot be kept as a hash; it is
-- emptied when the endpoint is removed.
CREATE TABLE webhooks (
    id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    events TEXT NOT NULL,
    secret TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    removed_at BIGINT
);

-- Below which spendable credit the operator is told; null: not at all. `is_low` from then on until it is not below any
-- more; `crossings` counts how often that was.
CREATE TABLE low_balance (
    account TEXT PRIMARY KEY REFERENCES accounts (id),
    threshold BIGINT CHECK (threshold > 0),
    is_low BIGINT NOT NULL DEFAULT 0,
    crossings BIGINT NOT NULL DEFAULT 0
);

-- The outbox. Insert-only. `source` is what it tells of: the same thing is told once.
CREATE TABLE webhook_events (
    id TEXT PRIMARY KEY,
    source TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- `next_try_at` of a delivery that is being tried is the end of the claim on it. `last_status` is null while nobody answered.
CREATE TABLE webhook_deliveries (
    webhook TEXT NOT NULL REFERENCES webhooks (id),
    event TEXT NOT NULL REFERENCES webhook_events (id),
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    tries BIGINT NOT NULL DEFAULT 0,
    last_status BIGINT,
    next_try_at BIGINT NOT NULL,
    PRIMARY KEY (webhook, event)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_try_at) WHERE state = 'pending';
