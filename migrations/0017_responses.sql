-- Answers of `POST /v1/responses` that their clients want kept, where the operator has turned that on. Nothing else of what
-- people and models say is in these books. `input` and `output` are JSON arrays of items: this turn's own, the earlier ones
-- are found by `previous`. `response` is the response object without its output. `expires_at`, Unix microseconds: from then
-- on nobody can read the row, and soon after it goes.
CREATE TABLE responses (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (id),
    previous TEXT,
    input TEXT NOT NULL,
    output TEXT NOT NULL,
    response TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX responses_expiry ON responses (expires_at);
