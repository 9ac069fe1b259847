// Tools, structured output, log-probabilities and the like through the official `openai` package for Node, unmodified. The
// variables are those of openai.test.mjs.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';

import { collecting } from './collected.mjs';

const { LUMBUNG_TEST_NODE_PATH: MODULES, BASE_URL, API_KEY, MODEL } = process.env;
const { default: OpenAI } = createRequire(MODULES ? `${MODULES}/` : import.meta.url)('openai');
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0, fetch: collecting });

const WEATHER = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'Get the current weather in a city',
    strict: true,
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false },
  },
};
const HARVEST = {
  type: 'object',
  properties: { kind: { enum: ['rice', 'maize'] }, sacks: { type: 'integer', minimum: 0, maximum: 20 }, dry: { type: 'boolean' } },
  required: ['kind', 'sacks', 'dry'],
  additionalProperties: false,
};
const FORM = { type: 'json_schema', json_schema: { name: 'harvest', strict: true, schema: HARVEST } };

function ask(question, more = {}) {
  return { model: MODEL, messages: [{ role: 'user', content: question }], temperature: 0, ...more };
}

function weather(city, more = {}) {
  return ask(`What is the weather in ${city}?`, { tools: [WEATHER], ...more });
}

function isHarvest(text) {
  const { kind, sacks, dry, ...rest } = JSON.parse(text);
  return ['rice', 'maize'].includes(kind) && Number.isInteger(sacks) && typeof dry === 'boolean' && Object.keys(rest).length === 0;
}

test('a tool is called and its result read', async () => {
  const reply = await client.chat.completions.create(weather('Paris'));
  const [{ message, finish_reason }] = reply.choices;
  assert.deepEqual([finish_reason, message.content, message.tool_calls.length], ['tool_calls', null, 1]);
  const [call] = message.tool_calls;
  assert.deepEqual([call.type, call.function.name, JSON.parse(call.function.arguments)], ['function', 'get_weather', { city: 'Paris' }]);
  const result = { role: 'tool', tool_call_id: call.id, content: JSON.stringify({ temperature: 21 }) };
  const messages = [{ role: 'user', content: 'What is the weather in Paris?' }, message, result];
  const answer = await client.chat.completions.create(weather('Paris', { messages }));
  assert.match(answer.choices[0].message.content, /^It is \d+ degrees in Paris\.$/);
});

test('a call is streamed in pieces', async () => {
  const chunks = await Array.fromAsync(await client.chat.completions.create(weather('Tokyo', { stream: true })));
  const [head, ...rest] = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  assert.deepEqual([head.index, head.type, head.function.name, head.function.arguments], [0, 'function', 'get_weather', '']);
  assert.deepEqual(JSON.parse(rest.map((part) => part.function.arguments).join('')), { city: 'Tokyo' });
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'tool_calls');
});

test("the SDK's helper runs tools until there is an answer", async () => {
  const asked = [];
  const run = { ...WEATHER.function, parse: JSON.parse, function: ({ city }) => (asked.push(city), '{"temperature": 21}') };
  const runner = client.chat.completions.runTools(weather('Rome', { tools: [{ type: 'function', function: run }] }));
  assert.match(await runner.finalContent(), /^It is \d+ degrees in Rome\.$/);
  assert.deepEqual(asked, ['Rome']);
});

test("who calls is the client's choice", async () => {
  const none = await client.chat.completions.create(weather('Paris', { tool_choice: 'none', max_tokens: 30 }));
  assert.ok(none.choices[0].message.content !== null && none.choices[0].message.tool_calls === undefined);
  // Asked about rice, so small a model would name a city without an end.
  const short = { ...WEATHER.function.parameters, properties: { city: { type: 'string', maxLength: 12 } } };
  const tools = [{ type: 'function', function: { ...WEATHER.function, parameters: short } }];
  for (const tool_choice of ['required', { type: 'function', function: { name: 'get_weather' } }]) {
    const request = ask('Tell me about rice.', { tools, tool_choice, parallel_tool_calls: false });
    const [{ message }] = (await client.chat.completions.create(request)).choices;
    assert.equal(message.tool_calls.length, 1);
    assert.deepEqual(Object.keys(JSON.parse(message.tool_calls[0].function.arguments)), ['city']);
  }
});

test('an answer has the form that was asked for', async () => {
  for (const seed of [1, 2, 3]) {
    const request = ask('Tell me about rice.', { response_format: FORM, temperature: 1, seed });
    const [first, again] = [await client.chat.completions.create(request), await client.chat.completions.create(request)];
    assert.ok(isHarvest(first.choices[0].message.content));
    assert.equal(again.choices[0].message.content, first.choices[0].message.content, 'the seed repeats it');
  }
  const stream = client.chat.completions.stream(ask('Tell me about rice.', { response_format: FORM }));
  assert.ok(isHarvest((await stream.finalChatCompletion()).choices[0].message.content));
});

test('several choices are summed, and log-probabilities are told', async () => {
  const request = ask('What is SSE?', { n: 4, max_tokens: 5, logprobs: true, top_logprobs: 2 });
  const reply = await client.chat.completions.create(request);
  assert.deepEqual(reply.choices.map((choice) => choice.index), [0, 1, 2, 3]);
  const tokens = reply.choices.map((choice) => choice.logprobs.content);
  assert.ok(tokens.flat().every(({ logprob, top_logprobs }) => logprob <= 0 && top_logprobs.length === 2));
  assert.equal(reply.usage.completion_tokens, tokens.flat().length);
  const chunks = await Array.fromAsync(await client.chat.completions.create({ ...request, n: 1, stream: true }));
  assert.equal(chunks.flatMap((chunk) => chunk.choices[0].logprobs?.content ?? []).length, 5);
});

test('nothing is shown of a stop sequence', async () => {
  const whole = (await client.chat.completions.create(ask('What is SSE?'))).choices[0].message.content;
  const stop = whole.slice(8, 12);
  const cut = (await client.chat.completions.create(ask('What is SSE?', { stop: [stop] }))).choices[0];
  assert.deepEqual([cut.message.content, cut.finish_reason], [whole.slice(0, whole.indexOf(stop)), 'stop']);
});

for (const [change, param] of [
  [{ logit_bias: { x: 1 } }, 'logit_bias'],
  [{ logit_bias: { 5: 101 } }, 'logit_bias'],
  [{ top_logprobs: 3 }, 'top_logprobs'],
  [{ functions: [{ name: 'f' }] }, 'functions'],
  [{ tool_choice: 'required' }, 'tool_choice'],
]) {
  test(`what is wrong is named: ${JSON.stringify(change)}`, async () => {
    await assert.rejects(
      client.chat.completions.create(ask('Hello!', change)),
      (error) => error instanceof OpenAI.BadRequestError && error.param.startsWith(param),
    );
  });
}
