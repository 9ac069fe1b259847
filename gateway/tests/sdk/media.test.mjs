// Pictures and sounds through the official `openai` package for Node, unmodified, to a server beside a provider, which gets
// what was sent. The variables are those of `test_media.py`.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';

import { collecting } from './collected.mjs';

const { LUMBUNG_TEST_NODE_PATH: MODULES, BASE_URL, API_KEY, SEEING_MODEL, ASKED_URL } = process.env;
const { default: OpenAI } = createRequire(MODULES ? `${MODULES}/` : import.meta.url)('openai');
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0, fetch: collecting });

test('parts of a chat reach the server, streamed or not', async () => {
  const content = [
    { type: 'text', text: 'What is this?' },
    { type: 'image_url', image_url: { url: 'data:image/png;base64,iVBORw0KGgo=', detail: 'low' } },
    { type: 'image_url', image_url: { url: 'https://example.org/a.png?x=1' } },
    { type: 'input_audio', input_audio: { data: 'UklGRg==', format: 'wav' } },
  ];
  const ask = { model: SEEING_MODEL, messages: [{ role: 'user', content }], max_tokens: 20 };
  const asked = async () => (await (await fetch(ASKED_URL)).json()).messages[0].content;
  const whole = await client.chat.completions.create(ask);
  assert.equal(whole.choices[0].message.content, 'A picture.');
  assert.deepEqual(await asked(), content);
  assert.equal(whole.usage.prompt_tokens_details.image_tokens, 2900);
  const stream = await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } });
  const chunks = await Array.fromAsync(stream);
  assert.deepEqual(chunks.at(-1).usage, whole.usage);
  assert.deepEqual(await asked(), content);
});
