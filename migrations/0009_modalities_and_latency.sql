-- What a model takes and gives: JSON arrays of `text`, `image`, `audio`, `video`, `file` and `embeddings`.
ALTER TABLE models ADD COLUMN input_modalities TEXT NOT NULL DEFAULT '["text"]';
ALTER TABLE models ADD COLUMN output_modalities TEXT NOT NULL DEFAULT '["text"]';

-- When the client's request came, and when the attempt's first token arrived; Unix microseconds. Null: the gateway died
-- before it could say, or no token came.
ALTER TABLE attempts ADD COLUMN received_at BIGINT;
ALTER TABLE attempts ADD COLUMN first_token_at BIGINT;
