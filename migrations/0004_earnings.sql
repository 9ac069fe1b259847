-- What becomes of providers' shares: held back, payable, paid out, clawed back; and credit that was given away, which
-- earns a provider nothing payable until the operator says so.

-- Locked by whatever makes something payable or takes it from there, so that these come one after the other, in the order
-- of the clock that they read under it.
INSERT INTO counters (name, value) VALUES ('earnings', 0);

-- How much of an account's money was given away and is not spent. It is spent first. Only accounts that were ever given
-- any have a row. `last_move` as in `ledger_accounts`.
CREATE TABLE promotional_credit (
    account TEXT PRIMARY KEY REFERENCES accounts (id),
    remaining BIGINT NOT NULL CHECK (remaining >= 0),
    last_move BIGINT NOT NULL DEFAULT 0
);

-- Of a charge: what was paid with promotional credit (`promotional`), and how much of the provider's share that is
-- (`promotional_share`); what of the rest was clawed back; when what was left of it became payable; and, where the
-- provider claimed less than was charged, what its share was before.
ALTER TABLE attempts ADD COLUMN promotional BIGINT NOT NULL DEFAULT 0 CHECK (promotional BETWEEN 0 AND charge);
ALTER TABLE attempts ADD COLUMN promotional_share BIGINT NOT NULL DEFAULT 0
    CHECK (promotional_share BETWEEN 0 AND promotional AND promotional_share <= charge - fee);
ALTER TABLE attempts ADD COLUMN promotional_state TEXT NOT NULL DEFAULT 'none'
    CHECK (promotional_state IN ('none', 'held', 'approved', 'refused'));
ALTER TABLE attempts ADD COLUMN promotional_decision TEXT;
ALTER TABLE attempts ADD COLUMN promotional_decided_at BIGINT;
ALTER TABLE attempts ADD COLUMN clawed_back BIGINT NOT NULL DEFAULT 0
    CHECK (clawed_back >= 0 AND clawed_back <= charge - fee - promotional_share);
ALTER TABLE attempts ADD COLUMN matured_at BIGINT;
ALTER TABLE attempts ADD COLUMN corrected_from BIGINT;
CREATE INDEX attempts_maturing ON attempts (settled_at)
    WHERE receipt_batch IS NOT NULL AND state = 'settled' AND matured_at IS NULL;
CREATE INDEX attempts_provider ON attempts (provider, settled_at);
CREATE INDEX attempts_promotional ON attempts (provider, account) WHERE promotional_state = 'held';
CREATE INDEX attempts_withheld ON attempts (provider) WHERE state = 'withheld';

-- What the operator decided about shares that promotional credit paid for. Insert-only.
CREATE TABLE promotional_decisions (
    id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    account TEXT,
    verdict TEXT NOT NULL CHECK (verdict IN ('approved', 'refused')),
    amount BIGINT NOT NULL CHECK (amount > 0),
    attempts BIGINT NOT NULL,
    reason TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX promotional_decisions_provider ON promotional_decisions (provider, at);

-- Earnings taken back before they were payable. Insert-only. `refunded` is what went to the clients; the rest is revenue.
CREATE TABLE clawbacks (
    id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount > 0),
    refunded BIGINT NOT NULL CHECK (refunded BETWEEN 0 AND amount),
    reason TEXT NOT NULL,
    evidence TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX clawbacks_provider ON clawbacks (provider, at);
CREATE TABLE clawback_items (
    job TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    clawback TEXT NOT NULL REFERENCES clawbacks (id),
    amount BIGINT NOT NULL CHECK (amount > 0),
    PRIMARY KEY (job, attempt, clawback)
);

-- Where a provider wants to be paid, as it signed for it. Insert-only; the highest version counts.
CREATE TABLE payout_details (
    provider TEXT NOT NULL REFERENCES providers (id),
    version BIGINT NOT NULL,
    details TEXT NOT NULL,
    set_at BIGINT NOT NULL,
    PRIMARY KEY (provider, version)
);

-- A run empties the payable balance of every provider that may be paid. `reference` is the operator's: the same one does
-- not run twice.
CREATE TABLE payout_runs (
    id TEXT PRIMARY KEY,
    reference TEXT NOT NULL,
    minimum BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX payout_runs_reference ON payout_runs (reference) WHERE reference <> '';
CREATE TABLE payouts (
    id TEXT PRIMARY KEY,
    run TEXT NOT NULL REFERENCES payout_runs (id),
    provider TEXT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount > 0),
    details TEXT NOT NULL,
    details_version BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('in_transit', 'confirmed', 'reversed')),
    reference TEXT NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL,
    decided_at BIGINT,
    UNIQUE (run, provider)
);
CREATE INDEX payouts_provider ON payouts (provider, created_at);
