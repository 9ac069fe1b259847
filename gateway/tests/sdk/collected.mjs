// A `fetch` that notes every answer, for `types.mjs` to check; `collected.py` is the same for Python.
//
// COLLECTED  the file that gets one line of JSON for each answer; nothing is noted unless it is set

import { appendFileSync } from 'node:fs';

const { COLLECTED } = process.env;

export async function collecting(url, options) {
  const response = await fetch(url, options);
  if (!COLLECTED || !response.body) return response;
  const text = new TextDecoder();
  let body = '';
  const note = () => {
    const request = `${options?.method ?? 'GET'} ${new URL(url).pathname}`;
    const line = { request, status: response.status, type: response.headers.get('content-type'), body };
    appendFileSync(COLLECTED, `${JSON.stringify(line)}\n`);
  };
  const noting = new TransformStream({
    transform(bytes, out) {
      body += text.decode(bytes, { stream: true });
      out.enqueue(bytes);
    },
    flush: note,
    // The SDK itself stops at `[DONE]`.
    cancel: note,
  });
  // Not `tee()`: a client that leaves a stream must be seen to leave it.
  const { status, statusText, headers } = response;
  return new Response(response.body.pipeThrough(noting), { status, statusText, headers });
}
