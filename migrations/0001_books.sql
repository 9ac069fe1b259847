-- The books. Written once for SQLite and Postgres: columns are BIGINT and TEXT only; flags 0/1, times in microseconds
-- since 1970, amounts in nano-dollars, hashes and keys in base64url.

-- `epoch` goes up with every change that gateways cache. Each of the others is a row to lock while something is done
-- that only one process may do at a time.
CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('epoch', 1), ('leases', 0), ('signing_keys', 0), ('roll_up', 0);

CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    closed_at BIGINT
);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (id),
    sha256 TEXT NOT NULL UNIQUE,
    shown_prefix TEXT NOT NULL,
    label TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX api_keys_account ON api_keys (account);

-- The newest of a kind signs; all of them verify.
CREATE TABLE signing_keys (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('hmac', 'ed25519')),
    secret TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE models (
    id TEXT PRIMARY KEY,
    aliases TEXT NOT NULL,
    digests TEXT NOT NULL,
    context_length BIGINT NOT NULL,
    max_completion_tokens BIGINT,
    prompt_price BIGINT NOT NULL,
    completion_price BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE providers (
    id TEXT PRIMARY KEY,
    standing TEXT NOT NULL CHECK (standing IN ('newcomer', 'trusted', 'banned')),
    first_seen BIGINT NOT NULL,
    standing_since BIGINT NOT NULL
);

-- One row for each run of a gateway. Whatever spends what a replica has set aside updates its row first (`touched`), so
-- that the replica, the reaper and a provider's late claim take turns.
CREATE TABLE replicas (
    id TEXT PRIMARY KEY,
    started_at BIGINT NOT NULL,
    ends_at BIGINT NOT NULL,
    exclusive BIGINT NOT NULL,
    touched BIGINT NOT NULL DEFAULT 0,
    released_at BIGINT
);
CREATE INDEX replicas_ends_at ON replicas (ends_at);

-- `balance` is exact for credit and allowances. For the kinds that many postings touch (outside, revenue,
-- provider_pending) it is a roll-up: the balance is this plus what is in `unrolled`.
-- `last_move` lets a conditional UPDATE return how much it moved: RETURNING shows new values only.
CREATE TABLE ledger_accounts (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    owner TEXT NOT NULL,
    replica TEXT NOT NULL DEFAULT '',
    balance BIGINT NOT NULL DEFAULT 0,
    last_move BIGINT NOT NULL DEFAULT 0,
    may_go_negative BIGINT NOT NULL DEFAULT 0,
    UNIQUE (kind, owner, replica),
    CHECK (balance >= 0 OR may_go_negative = 1),
    -- Nine billion dollars. SQLite turns a sum beyond 64 bits into a floating-point number; this refuses it.
    CHECK (balance BETWEEN -9000000000000000000 AND 9000000000000000000)
);
INSERT INTO ledger_accounts (id, kind, owner, may_go_negative) VALUES ('outside', 'outside', '', 1), ('revenue', 'revenue', '', 0);
CREATE INDEX ledger_accounts_allowances ON ledger_accounts (replica) WHERE kind = 'allowance';

-- Insert-only. No foreign key from entries: a look-up for each; `books check` finds what belongs to nothing.
CREATE TABLE postings (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    at BIGINT NOT NULL
);
-- The same payment is not credited twice.
CREATE UNIQUE INDEX postings_payment ON postings (reference)
    WHERE kind IN ('credit_paid', 'credit_promotional') AND reference <> '';

CREATE TABLE entries (
    posting TEXT NOT NULL,
    account TEXT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount <> 0),
    PRIMARY KEY (posting, account)
);

-- Entries of busy accounts, summed per transaction, until `roll_up` adds them to the balance. A queue and not
-- "everything after entry N", because ids do not become visible in their order.
CREATE TABLE unrolled (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    amount BIGINT NOT NULL
);

-- Signed Merkle roots, and the leaves under them in order, so that any leaf can be proved.
CREATE TABLE batches (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('settlements', 'receipts')),
    jws TEXT NOT NULL,
    leaves TEXT NOT NULL,
    at BIGINT NOT NULL
);

-- One row for each settled attempt at a job. `receipt` is the provider's claims as they came in the answer's trailers or
-- in a signed batch; it is proved once `receipt_batch` is set.
CREATE TABLE attempts (
    job TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    account TEXT NOT NULL,
    api_key TEXT,
    replica TEXT NOT NULL,
    allowance TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    public_id TEXT NOT NULL,
    created BIGINT NOT NULL,
    first_token BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    ceiling BIGINT NOT NULL,
    charge BIGINT NOT NULL,
    fee BIGINT NOT NULL,
    delivered_sha256 TEXT,
    finish_reason TEXT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    settled_at BIGINT NOT NULL,
    claim_by BIGINT NOT NULL,
    ticket TEXT NOT NULL,
    record TEXT NOT NULL,
    batch TEXT NOT NULL REFERENCES batches (id),
    batch_index BIGINT NOT NULL,
    receipt TEXT,
    receipt_batch TEXT REFERENCES batches (id),
    receipt_index BIGINT,
    state TEXT NOT NULL CHECK (state IN ('settled', 'withheld')),
    PRIMARY KEY (job, attempt),
    CHECK (charge >= 0 AND charge <= ceiling AND fee >= 0 AND fee <= charge)
);
CREATE INDEX attempts_public_id ON attempts (public_id);
CREATE INDEX attempts_account ON attempts (account, settled_at);
CREATE INDEX attempts_unproven ON attempts (claim_by) WHERE receipt_batch IS NULL AND state = 'settled';
