-- What was used, counted as it happens, in the same transactions as the postings: so that a question about a million jobs
-- reads some thousand rows. Days are days since 1970, UTC, of the posting and not of the attempt: a correction counts on
-- the day it is made, a day that is over does not change any more, and a month's usage is what its postings took.
-- `requests` counts first attempts. `charge` is what clients paid, `fee` the operator's part of it. No key (''): the
-- gateway died, and a receipt stood alone.

-- One row for each kind of use in a transaction, until `roll_up` adds it to the tables below: as with `unrolled`, so that
-- gateways do not wait for one another's rows.
CREATE TABLE usage_unrolled (
    id TEXT PRIMARY KEY,
    day BIGINT NOT NULL,
    account TEXT NOT NULL,
    api_key TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    requests BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    charge BIGINT NOT NULL,
    fee BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('usage', 0);

-- By account first: whoever asks about accounts reads theirs, or the next page of accounts.
CREATE TABLE usage_daily (
    account TEXT NOT NULL,
    day BIGINT NOT NULL,
    api_key TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    requests BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    charge BIGINT NOT NULL,
    fee BIGINT NOT NULL,
    PRIMARY KEY (account, day, api_key, model, provider)
);

-- The same over all accounts: a few rows a day, for questions about models and providers.
CREATE TABLE usage_network (
    day BIGINT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    requests BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    charge BIGINT NOT NULL,
    fee BIGINT NOT NULL,
    PRIMARY KEY (day, model, provider)
);

-- Books from before this.
INSERT INTO usage_unrolled (id, day, account, api_key, model, provider, requests, attempts, prompt_tokens, cached_tokens,
        completion_tokens, charge, fee)
    SELECT MIN(job || '/' || CAST(attempt AS TEXT)), CAST(settled_at / 86400000000 AS BIGINT), account, COALESCE(api_key, ''), model, provider,
        CAST(SUM(CASE attempt WHEN 1 THEN 1 ELSE 0 END) AS BIGINT), COUNT(*), CAST(SUM(prompt_tokens) AS BIGINT),
        CAST(SUM(cached_tokens) AS BIGINT), CAST(SUM(completion_tokens) AS BIGINT),
        CAST(SUM(CASE state WHEN 'withheld' THEN fee ELSE charge END) AS BIGINT), CAST(SUM(fee) AS BIGINT)
    FROM attempts GROUP BY CAST(settled_at / 86400000000 AS BIGINT), account, COALESCE(api_key, ''), model, provider;

-- What moved an account's credit, for its invoices; settlements, which are many, are not among it. Whoever looks here must
-- repeat the condition, or the index is not used.
CREATE INDEX entries_credit ON entries (account, posting) WHERE account LIKE 'credit:%';
