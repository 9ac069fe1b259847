-- Models' own tokenizers, by content, and what was found when tokens were counted again with them.

-- `digest` is SHA-256 over the other columns' text. `special_tokens` is JSON: what the template calls bos_token, eos_token
-- and unk_token.
CREATE TABLE tokenizers (
    digest TEXT PRIMARY KEY,
    tokenizer_json TEXT NOT NULL,
    chat_template TEXT NOT NULL,
    special_tokens TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- A table of its own rather than a column, so that a model can be changed without touching it.
CREATE TABLE model_tokenizers (
    model TEXT PRIMARY KEY,
    tokenizer TEXT NOT NULL REFERENCES tokenizers (digest),
    set_at BIGINT NOT NULL
);

-- One row for each attempt that was chosen. Insert-only, in the transaction that settles the attempt. The claimed figures
-- are what would have been charged without it; a recounted figure is null where there was nothing to count.
CREATE TABLE recounts (
    job TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    tokenizer TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('counted', 'late', 'failed', 'no_text')),
    claimed_prompt BIGINT NOT NULL,
    claimed_completion BIGINT NOT NULL,
    prompt_tokens BIGINT,
    completion_tokens BIGINT,
    at BIGINT NOT NULL,
    PRIMARY KEY (job, attempt)
);
CREATE INDEX recounts_provider ON recounts (provider, at);
