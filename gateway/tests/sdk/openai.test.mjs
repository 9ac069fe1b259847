// The official `openai` package for Node, unmodified, against a running gateway.
//
// BASE_URL, API_KEY, MODEL  as in `.demo/env`; the model is the bundled one
// QUESTIONS                 provider-runtime/models/questions.json, unless set
// POOR_KEY                  a key of an account without credit
// IDLE_MODEL                a model of the catalogue that nobody serves
// LIMITED_KEY               a fresh key that may ask once a minute
// LUMBUNG_TEST_NODE_PATH    the node_modules folder that holds the package

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';

import { collecting } from './collected.mjs';

const { LUMBUNG_TEST_NODE_PATH: MODULES, BASE_URL, API_KEY, MODEL, POOR_KEY, IDLE_MODEL, LIMITED_KEY } = process.env;
const { default: OpenAI } = createRequire(MODULES ? `${MODULES}/` : import.meta.url)('openai');
const QUESTIONS = JSON.parse(
  readFileSync(process.env.QUESTIONS ?? new URL('../../../provider-runtime/models/questions.json', import.meta.url), 'utf8'),
);

const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0, fetch: collecting });
const oneOfEachTopic = [...new Map(QUESTIONS.toReversed().map((entry) => [entry.topic, entry])).values()];

function ask(question, more = {}) {
  return { model: MODEL, messages: [{ role: 'user', content: question }], temperature: 0, ...more };
}

/** The error that a call must end in. */
async function errorOf(kind, call) {
  let caught;
  await assert.rejects(call, (error) => (caught = error) instanceof kind);
  return caught;
}

for (const { topic, question, answer } of oneOfEachTopic) {
  test(`a chat answers word for word: ${topic}`, async () => {
    const reply = await client.chat.completions.create(ask(question));
    const [choice] = reply.choices;
    assert.equal(choice.message.content, answer);
    assert.deepEqual([choice.message.role, choice.finish_reason, choice.index], ['assistant', 'stop', 0]);
    assert.deepEqual([reply.object, reply.model], ['chat.completion', MODEL]);
    assert.match(reply.id, /^chatcmpl-/);
    assert.ok(reply.usage.prompt_tokens > 0 && reply.usage.completion_tokens > 0);
    assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
  });
}

test('a stream with usage says the same', async () => {
  const { question, answer } = QUESTIONS[0];
  const whole = await client.chat.completions.create(ask(question));
  const stream = await client.chat.completions.create(ask(question, { stream: true, stream_options: { include_usage: true } }));
  const chunks = await Array.fromAsync(stream);

  const last = chunks.pop();
  assert.equal(chunks[0].choices[0].delta.role, 'assistant');
  assert.ok(chunks.every((chunk) => chunk.usage === null && chunk.choices.length === 1));
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''), answer);
  assert.deepEqual(chunks.map((chunk) => chunk.choices[0].finish_reason).filter(Boolean), ['stop']);
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
  assert.deepEqual(last.choices, []);
  assert.deepEqual(last.usage, whole.usage);
  assert.ok(chunks.every((chunk) => chunk.id === last.id && chunk.created === last.created && chunk.model === MODEL));
  assert.ok(chunks.length > 3, 'it came in pieces');
});

test('a stream without usage has none', async () => {
  const chunks = await Array.fromAsync(await client.chat.completions.create(ask('Hello!', { stream: true })));
  assert.ok(chunks.every((chunk) => !('usage' in chunk) && chunk.choices.length === 1));
});

test("the SDK's stream helper gathers the whole answer", async () => {
  const { question, answer } = QUESTIONS[0];
  const final = await client.chat.completions.stream(ask(question, { stream_options: { include_usage: true } })).finalChatCompletion();
  assert.equal(final.choices[0].message.content, answer);
  assert.ok(final.usage.completion_tokens > 0);
});

test('an answer may be cut by max_tokens', async () => {
  const reply = await client.chat.completions.create(ask(QUESTIONS[0].question, { max_tokens: 3 }));
  assert.deepEqual([reply.choices[0].finish_reason, reply.usage.completion_tokens], ['length', 3]);
});

test('several may be asked at once', async () => {
  const entries = oneOfEachTopic.slice(0, 4);
  const replies = await Promise.all(entries.map(({ question }) => client.chat.completions.create(ask(question))));
  assert.deepEqual(replies.map((reply) => reply.choices[0].message.content), entries.map(({ answer }) => answer));
});

test('a stream may be left', async () => {
  const { question, answer } = QUESTIONS[0];
  for await (const _ of await client.chat.completions.create(ask(question, { stream: true }))) break;
  assert.equal((await client.chat.completions.create(ask(question))).choices[0].message.content, answer);
});

test('models are listed, and found by names with a slash', async () => {
  const listed = (await Array.fromAsync(client.models.list())).find((model) => model.id === MODEL);
  assert.ok(listed && MODEL.includes('/'));
  // The SDK asks for `models/lumbung%2Fpadi`.
  assert.deepEqual({ ...(await client.models.retrieve(MODEL)) }, { ...listed });
  assert.equal((await client.get(`/models/${MODEL}`)).id, MODEL);
});

test('every answer names its request', async () => {
  const { data, request_id } = await client.chat.completions.create(ask('Hello!')).withResponse();
  assert.ok(request_id);
  assert.equal(data._request_id, request_id);
});

test('a wrong key is an authentication error', async () => {
  const stranger = new OpenAI({ baseURL: BASE_URL, apiKey: 'sk-wrong', maxRetries: 0 });
  const error = await errorOf(OpenAI.AuthenticationError, () => stranger.chat.completions.create(ask('Hello!')));
  assert.deepEqual([error.status, error.code], [401, 'invalid_api_key']);
  assert.ok(error.requestID);
});

test('an unknown model is not found', async () => {
  const asked = await errorOf(OpenAI.NotFoundError, () => client.chat.completions.create(ask('Hello!', { model: 'nobody/nothing' })));
  assert.deepEqual([asked.status, asked.code], [404, 'model_not_found']);
  const retrieved = await errorOf(OpenAI.NotFoundError, () => client.models.retrieve('nobody/nothing'));
  assert.equal(retrieved.code, 'model_not_found');
});

for (const [change, param, code] of [
  [{ temperature: 9 }, 'temperature', 'invalid_value'],
  [{ temperature: 'hot' }, 'temperature', 'invalid_type'],
  [{ max_tokens: 0 }, 'max_tokens', 'invalid_value'],
  [{ messages: [] }, 'messages', 'empty_array'],
  [{ messages: [{ role: 'wizard', content: 'Hello!' }] }, 'messages[0].role', 'invalid_value'],
  [{ messages: [{ role: 'user', content: 'word '.repeat(20_000) }] }, 'messages', 'context_length_exceeded'],
  [{ store: true }, 'store', 'unsupported_parameter'],
]) {
  test(`a bad request names the parameter: ${param}, ${code}`, async () => {
    for (const stream of [false, true]) {
      const error = await errorOf(OpenAI.BadRequestError, () => client.chat.completions.create(ask('Hello!', { ...change, stream })));
      assert.deepEqual([error.status, error.param, error.code, error.type], [400, param, code, 'invalid_request_error']);
    }
  });
}

test('out of credit is not tried again', { skip: !POOR_KEY && 'POOR_KEY is not set' }, async () => {
  let asked = 0;
  const counting = (...request) => (asked++, fetch(...request));
  const poor = new OpenAI({ baseURL: BASE_URL, apiKey: POOR_KEY, maxRetries: 3, fetch: counting });
  const error = await errorOf(OpenAI.RateLimitError, () => poor.chat.completions.create(ask('Hello!')));
  assert.deepEqual([error.status, error.code], [429, 'insufficient_quota']);
  assert.equal(error.headers.get('x-should-retry'), 'false');
  assert.equal(asked, 1);
});

test('beyond its rate a key is told when to come back', { skip: !LIMITED_KEY && 'LIMITED_KEY is not set' }, async () => {
  const limited = new OpenAI({ baseURL: BASE_URL, apiKey: LIMITED_KEY, maxRetries: 0 });
  const { response } = await limited.chat.completions.create(ask('Hello!')).withResponse();
  assert.equal(response.headers.get('x-ratelimit-remaining-requests'), '0');
  const error = await errorOf(OpenAI.RateLimitError, () => limited.chat.completions.create(ask('Hello!')));
  assert.deepEqual([error.status, error.code, error.type], [429, 'rate_limit_exceeded', 'requests']);
  const wait = Number(error.headers.get('retry-after'));
  assert.ok(wait >= 50 && wait <= 60, String(wait));
  assert.equal(error.headers.get('x-should-retry'), null);
});

test('a model without a provider is unavailable for now', { skip: !IDLE_MODEL && 'IDLE_MODEL is not set' }, async () => {
  const error = await errorOf(OpenAI.InternalServerError, () => client.chat.completions.create(ask('Hello!', { model: IDLE_MODEL })));
  assert.equal(error.status, 503);
  assert.ok(Number(error.headers.get('retry-after')) > 0);
  assert.equal(typeof error.code, 'string');
});
