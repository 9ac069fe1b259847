// Whether every answer that the tests of the SDKs noted has the types that the `openai` package for Node declares. Each
// document and each event becomes a literal of its type in one file, and the compiler says what is missing, wrong or too
// much. Anthropic's are validated in test_surface.py.
//
// COLLECTED                 what `collected.mjs` and `collected.py` noted
// LUMBUNG_TEST_NODE_PATH    the node_modules folder that holds the packages

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const { LUMBUNG_TEST_NODE_PATH: MODULES, COLLECTED } = process.env;

// What we add to OpenAI's shapes on purpose: what other servers and marketplaces send, and clients look for.
const MESSAGE = ['reasoning', 'reasoning_content'];
const USAGE = ['usage.cost'];
const MARKET = `architecture context_length max_completion_tokens pricing supported_parameters quantizations providers latency
throughput`.split(/\s/);
// What Open Responses requires.
const OPEN = ['presence_penalty', 'frequency_penalty', 'store'];
const ADDED = {
  ChatCompletion: [...MESSAGE.map((name) => `choices.message.${name}`), ...USAGE],
  ChatCompletionChunk: [...MESSAGE.map((name) => `choices.delta.${name}`), ...USAGE],
  Completion: USAGE,
  CreateEmbeddingResponse: USAGE,
  Model: MARKET,
  ModelsPage: MARKET.map((name) => `data.${name}`),
  Response: [...OPEN, ...USAGE],
  // Python's types want the name.
  ResponseStreamEvent: ['name', ...[...OPEN, ...USAGE].map((name) => `response.${name}`)],
};

/** The type of what one answer holds, for each document or event of it. */
function typed({ request, status, type, body }) {
  const [method, path] = request.split(' ');
  const endpoint = path.replace(/^\/v1/, '');
  if (endpoint.startsWith('/messages')) return [];
  if (status >= 400) return [['{ error: OpenAI.ErrorObject }', JSON.parse(body)]];
  if (status === 204) return [];
  const stream = type.startsWith('text/event-stream');
  // A chunk that says what went wrong has no type: the SDKs raise it as an error.
  const values = stream ? events(body).filter((event) => event.type || !event.error) : [JSON.parse(body)];
  return values.map((value) => [typeOf(method, endpoint, stream), value, stream]);
}

function typeOf(method, endpoint, stream) {
  if (endpoint === '/chat/completions') return stream ? 'ChatCompletionChunk' : 'ChatCompletion';
  if (endpoint === '/completions') return 'Completion';
  if (endpoint === '/embeddings') return 'CreateEmbeddingResponse';
  if (endpoint === '/models') return 'ModelsPage';
  if (endpoint.startsWith('/models/')) return 'Model';
  if (endpoint === '/responses') return stream ? 'ResponseStreamEvent' : 'Response';
  if (endpoint.endsWith('/input_items')) return 'ResponseItemList';
  if (endpoint.startsWith('/responses/')) return method === 'DELETE' ? 'Deleted' : 'Response';
  throw new Error(`no type is known for ${method} ${endpoint}`);
}

/** The events of a stream but its `[DONE]`, as far as they are whole. */
function events(body) {
  const whole = body.split('\n\n').slice(0, -1);
  const data = whole.flatMap((event) => event.split('\n').filter((line) => line.startsWith('data: ')).map((line) => line.slice(6)));
  return data.filter((text) => text !== '[DONE]').map((text) => JSON.parse(text));
}

/** The value without the members at these paths; a list is every one of its members. */
function without(value, paths) {
  if (Array.isArray(value)) return value.map((item) => without(item, paths));
  if (value === null || typeof value !== 'object') return value;
  const here = paths.filter((path) => !path.includes('.'));
  const kept = Object.entries(value).filter(([name]) => !here.includes(name));
  const below = (name) => paths.filter((path) => path.startsWith(`${name}.`)).map((path) => path.slice(name.length + 1));
  return Object.fromEntries(kept.map(([name, item]) => [name, without(item, below(name))]));
}

/** What the SDK's client sees of an answer: convenient members are added, vectors unpacked. */
function read(type, value, stream) {
  if (type === 'Response') {
    // Null while there is none, in OpenAI's answers and by Open Responses, whatever the type says.
    const { usage, ...rest } = value;
    return { ...rest, ...(usage !== null && { usage }), output_text: '' };
  }
  if (type === 'ResponseStreamEvent' && value.response) return { ...value, response: read('Response', value.response) };
  if (type === 'Completion' && stream) {
    // The type is that of a whole completion. OpenAI's chunks have null until there is a reason, and a usage.
    const { usage, ...rest } = value;
    const choices = value.choices.map((choice) => ({ ...choice, finish_reason: choice.finish_reason ?? 'stop' }));
    return { ...rest, choices, ...(usage !== null && { usage }) };
  }
  if (type !== 'CreateEmbeddingResponse') return value;
  const floats = ({ embedding, ...rest }) => ({ ...rest, embedding: typeof embedding === 'string' ? [0.5] : embedding });
  return { ...value, data: value.data.map(floats) };
}

const HEAD = `import type OpenAI from 'openai';
type ChatCompletion = OpenAI.ChatCompletion;
type ChatCompletionChunk = OpenAI.ChatCompletionChunk;
type Completion = OpenAI.Completion;
type CreateEmbeddingResponse = OpenAI.CreateEmbeddingResponse;
type Model = OpenAI.Model;
type ModelsPage = { object: 'list'; data: Model[] };
type Response = OpenAI.Responses.Response;
type ResponseStreamEvent = OpenAI.Responses.ResponseStreamEvent;
type ResponseItemList = OpenAI.Responses.ResponseItemList;
type Deleted = { id: string; object: string; deleted: true };
`;

/** The compiler's complaints about literals of these types. */
function complaints(literals) {
  const folder = mkdtempSync(join(tmpdir(), 'types-'));
  try {
    symlinkSync(MODULES, join(folder, 'node_modules'));
    const lines = literals.map(([type, value], at) => `export const _${at}: ${type} = ${JSON.stringify(value)};\n`);
    writeFileSync(join(folder, 'answers.ts'), HEAD + lines.join(''));
    const options = '--noEmit --strict --skipLibCheck --module nodenext --target es2024 --lib es2024,dom --pretty false --types';
    const tsc = [join(MODULES, 'typescript/bin/tsc'), ...options.split(' '), '', 'answers.ts'];
    const { status, stdout, stderr } = spawnSync(process.execPath, tsc, { cwd: folder, encoding: 'utf8', maxBuffer: 1 << 28 });
    const said = stdout.split('\n').filter((line) => line.startsWith('answers.ts'));
    if (status !== 0 && said.length === 0) throw new Error(`the compiler failed: ${stdout}${stderr}`);
    const first = HEAD.split('\n').length;
    return said.map((line) => ({ at: Number(/\((\d+),/.exec(line)[1]) - first, said: line }));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** One wrong literal for each kind of mistake: a checker that passes them would pass everything. */
function wrong(literals) {
  const [type, value] = literals.find(([type]) => type === 'ChatCompletionChunk' || type === 'Response');
  const { model, ...missing } = value;
  return [missing, { ...value, model: null }, { ...value, mode: model }, { ...value, object: 'chunk' }].map((value) => [type, value]);
}

const answers = readFileSync(COLLECTED, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line));
const collected = answers.flatMap((answer) => typed(answer).map((found) => [answer.request, ...found]));
const literals = collected.map(([, type, value, stream]) => [type, read(type, without(value, ADDED[type] ?? []), stream)]);
const tests = wrong(literals);
const found = complaints([...literals, ...tests]);
const caught = new Set(found.filter(({ at }) => at >= literals.length).map(({ at }) => at));
const counts = Object.entries(Object.groupBy(literals, ([type]) => type)).map(([type, of]) => `${of.length} ${type}`);
console.log(`${answers.length} answers: ${counts.join(', ')}`);
for (const { at, said } of found.filter(({ at }) => at < literals.length).slice(0, 20)) {
  console.error(`${collected[at][0]}: ${said}\n  ${JSON.stringify(literals[at][1]).slice(0, 1500)}`);
}
if (caught.size !== tests.length) console.error('the checker does not find mistakes any more');
process.exitCode = found.length === caught.size && caught.size === tests.length ? 0 : 1;
