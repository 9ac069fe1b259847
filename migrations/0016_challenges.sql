-- Challenges that a provider has answered: an answer is good once, whichever gateway it comes to. `expires_at`, Unix
-- microseconds: when no gateway takes an answer any more; the row goes some time later.
CREATE TABLE answered_challenges (
    nonce TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);
CREATE INDEX answered_challenges_expiry ON answered_challenges (expires_at);
