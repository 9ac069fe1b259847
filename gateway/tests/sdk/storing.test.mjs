// Responses that the gateway keeps, through the official `openai` package for Node, unmodified. Environment as in test_storing.py.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';

import { collecting } from './collected.mjs';

const { LUMBUNG_TEST_NODE_PATH: MODULES, BASE_URL, API_KEY, POOR_KEY, MODEL, QUESTIONS } = process.env;
const { default: OpenAI } = createRequire(MODULES ? `${MODULES}/` : import.meta.url)('openai');
const [{ question, answer }] = JSON.parse(readFileSync(QUESTIONS, 'utf8'));
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0, fetch: collecting });
const stranger = new OpenAI({ baseURL: BASE_URL, apiKey: POOR_KEY, maxRetries: 0, fetch: collecting });

test('a response is kept, gone on from, read and deleted', async () => {
  const first = await client.responses.create({ model: MODEL, input: question, temperature: 0 });
  assert.deepEqual([first.output_text, first.store], [answer, true]);
  const kept = await client.responses.retrieve(first.id);
  assert.deepEqual([kept.output_text, kept.usage, kept.completed_at], [answer, first.usage, first.completed_at]);
  const second = await client.responses.create({ model: MODEL, input: 'And?', max_output_tokens: 5, previous_response_id: first.id });
  const items = await Array.fromAsync(client.responses.inputItems.list(second.id, { order: 'asc', limit: 2 }));
  assert.deepEqual(items.map((item) => item.content[0].text), [question, answer, 'And?']);
  await assert.rejects(stranger.responses.retrieve(first.id), OpenAI.NotFoundError);
  await assert.rejects(stranger.responses.delete(first.id), OpenAI.NotFoundError);
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
});
