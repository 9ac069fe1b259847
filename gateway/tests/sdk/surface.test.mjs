// The endpoints beside chat through the official `openai` package for Node, unmodified.
//
// BASE_URL, API_KEY, MODEL  as in `.demo/env`; the model is the bundled one
// QUESTIONS                 provider-runtime/models/questions.json, unless set
// SCRIPTED_MODEL            a model that answers from the script in `network/sdk.rs`
// VECTORS_MODEL             a model that makes vectors
// LUMBUNG_TEST_NODE_PATH    the node_modules folder that holds the package

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';

import { collecting } from './collected.mjs';

const { LUMBUNG_TEST_NODE_PATH: MODULES, BASE_URL, API_KEY, MODEL, SCRIPTED_MODEL, VECTORS_MODEL } = process.env;
const { default: OpenAI } = createRequire(MODULES ? `${MODULES}/` : import.meta.url)('openai');
const [{ question, answer }] = JSON.parse(
  readFileSync(process.env.QUESTIONS ?? new URL('../../../provider-runtime/models/questions.json', import.meta.url), 'utf8'),
);
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0, fetch: collecting });

test('a response answers word for word, streamed or not', async () => {
  const ask = { model: MODEL, input: question, temperature: 0 };
  const whole = await client.responses.create(ask);
  assert.equal(whole.output_text, answer);
  assert.deepEqual([whole.status, whole.store, whole.previous_response_id], ['completed', false, null]);

  const events = await Array.fromAsync(await client.responses.create({ ...ask, stream: true }));
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, number) => number));
  assert.equal(events.filter((event) => event.type === 'response.output_text.delta').map((event) => event.delta).join(''), answer);
  const last = events.at(-1);
  assert.equal(last.type, 'response.completed');
  assert.deepEqual(last.response.usage, whole.usage);

  const final = await client.responses.stream(ask).finalResponse();
  assert.equal(final.output_text, answer);
});

test('a response calls a tool, streamed or not', async () => {
  const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false };
  const tools = [{ type: 'function', name: 'get_weather', parameters, strict: true }];
  const ask = { model: SCRIPTED_MODEL, input: 'the weather?', tools, reasoning: { effort: 'low' } };
  const whole = await client.responses.create(ask);
  assert.deepEqual(whole.output.map((item) => item.type), ['reasoning', 'message', 'function_call']);
  const call = whole.output.at(-1);
  assert.deepEqual([call.name, JSON.parse(call.arguments)], ['get_weather', { city: 'Jakarta' }]);
  const final = await client.responses.stream(ask).finalResponse();
  assert.deepEqual(final.output.map((item) => item.type), ['reasoning', 'message', 'function_call']);
  const result = { type: 'function_call_output', call_id: call.call_id, output: 'sunny' };
  const input = [{ role: 'user', content: 'the weather?' }, ...whole.output, result, { role: 'user', content: 'hello' }];
  assert.equal((await client.responses.create({ ...ask, input })).output_text, 'Hello to you');
});

test('a response has the form that was asked for', async () => {
  const properties = { name: { type: 'string' }, age: { type: 'integer' } };
  const schema = { type: 'object', properties, required: ['name', 'age'], additionalProperties: false };
  const format = { type: 'json_schema', name: 'person', strict: true, schema };
  const reply = await client.responses.parse({ model: SCRIPTED_MODEL, input: 'the person?', text: { format } });
  assert.deepEqual(JSON.parse(reply.output_text), { name: 'Ada', age: 36 });
});

test('a response that would be stored is refused by name', async () => {
  for (const [name, value] of [['store', true], ['previous_response_id', 'resp_1']]) {
    await assert.rejects(
      client.responses.create({ model: MODEL, input: 'Hello!', [name]: value }),
      (error) => error instanceof OpenAI.BadRequestError && error.param === name,
    );
  }
});

test('a completion goes on, streamed or not', async () => {
  const ask = { model: SCRIPTED_MODEL, prompt: 'hello' };
  const whole = await client.completions.create(ask);
  assert.deepEqual([whole.object, whole.choices[0].text], ['text_completion', 'Hello to you']);
  const chunks = await Array.fromAsync(await client.completions.create({ ...ask, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), 'Hello to you');
});

test('vectors come the same either way', async () => {
  const packed = await client.embeddings.create({ model: VECTORS_MODEL, input: ['a barn', 'rice'] });
  const plain = await client.embeddings.create({ model: VECTORS_MODEL, input: ['a barn', 'rice'], encoding_format: 'float' });
  packed.data.forEach(({ embedding }, at) => {
    const other = plain.data[at].embedding;
    assert.equal(embedding.length, other.length);
    assert.ok(embedding.every((number, place) => Math.abs(number - other[place]) < 1e-6));
  });
});
