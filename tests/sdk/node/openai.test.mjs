// The official OpenAI library: chat, streams, tools, structured output, embeddings, responses.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { CHAT, DIRECT, EMBEDDING, GATEWAY, RESPONSES, all, failure, plain, same } from './sides.mjs';

const City = z.object({ name: z.string(), people: z.number().int() });
const parameters = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};
const tool = (name) => ({ type: 'function', function: { name, parameters, strict: true } });
const ask = (content) => [{ role: 'user', content }];

same('chat', async (side) => {
  const answer = await side.openai().chat.completions.create({ model: CHAT, messages: ask('Grüße 👋') });
  assert.equal(answer.choices[0].message.content, 'You said: Grüße 👋');
  return answer;
});

same('chat, streamed', async (side) => {
  const options = { model: CHAT, messages: ask('a b'), stream: true, stream_options: { include_usage: true } };
  const chunks = await all(await side.openai().chat.completions.create(options));
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), 'You said: a b');
  assert.ok(chunks.at(-1).usage.total_tokens > 0);
  return chunks;
});

same('chat, stream helper', async (side) => {
  const stream = side.openai().chat.completions.stream({ model: CHAT, messages: ask('日本 語') });
  const deltas = [];
  stream.on('content', (delta) => deltas.push(delta));
  const final = await stream.finalChatCompletion();
  assert.equal(deltas.join(''), 'You said: 日本 語');
  return [deltas, final];
});

same('tools', async (side) => {
  const client = side.openai();
  const tools = [tool('get_weather')];
  const first = await client.chat.completions.create({ model: CHAT, messages: ask('Oslo'), tools });
  const call = first.choices[0].message.tool_calls[0];
  assert.deepEqual(JSON.parse(call.function.arguments), { city: 'Oslo' });
  const result = { role: 'tool', tool_call_id: call.id, content: 'rain' };
  const messages = [...ask('Oslo'), first.choices[0].message, result];
  const second = await client.chat.completions.create({ model: CHAT, messages, tools });
  assert.equal(second.choices[0].message.content, 'The tool said: rain');
  return [first, second];
});

same('tools, run by the library', async (side) => {
  const called = [];
  const weather = { name: 'get_weather', parameters, parse: JSON.parse, function: ({ city }) => (called.push(city), 'rain') };
  const options = { model: CHAT, messages: ask('Oslo'), tools: [{ type: 'function', function: weather }] };
  const text = await side.openai().chat.completions.runTools(options).finalContent();
  assert.deepEqual(called, ['Oslo']);
  assert.equal(text, 'The tool said: rain');
  return text;
});

same('parallel tools, streamed', async (side) => {
  const options = { model: CHAT, messages: ask('both in parallel'), tools: [tool('one'), tool('two')] };
  const final = await side.openai().chat.completions.stream(options).finalChatCompletion();
  assert.equal(final.choices[0].message.tool_calls.length, 2);
  return final;
});

same('structured output', async (side) => {
  const options = { model: CHAT, messages: ask('Paris'), response_format: zodResponseFormat(City, 'city') };
  const answer = await side.openai().chat.completions.parse(options);
  assert.deepEqual(answer.choices[0].message.parsed, { name: 'Paris', people: 7 });
  return answer;
});

same('embeddings', async (side) => {
  const client = side.openai();
  const base64 = await client.embeddings.create({ model: EMBEDDING, input: ['one', 'two'] });
  const floats = await client.embeddings.create({ model: EMBEDDING, input: ['one', 'two'], encoding_format: 'float' });
  assert.deepEqual(base64.data.map((one) => one.embedding), floats.data.map((one) => one.embedding));
  return [base64, floats];
});

same('completions', async (side) => {
  const client = side.openai();
  const whole = await client.completions.create({ model: CHAT, prompt: 'Once upon' });
  const chunks = await all(await client.completions.create({ model: CHAT, prompt: 'Once upon', stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), whole.choices[0].text);
  return [whole, chunks];
});

test('list of models', async () => {
  const ids = async (side) => (await all(side.openai().models.list())).map((model) => model.id);
  const [direct, through] = [await ids(DIRECT), await ids(GATEWAY)];
  assert.ok(direct.length > 0);
  assert.deepEqual(direct.filter((id) => !through.includes(id)), []);
});

same('responses: create, get without a model, input items, delete', async (side) => {
  const client = side.openai();
  const created = await client.responses.create({ model: RESPONSES, input: 'remember' });
  assert.equal(created.output_text, 'You said: remember');
  const found = await client.responses.retrieve(created.id);
  assert.deepEqual(plain(found), plain(created));
  const items = await all(client.responses.inputItems.list(created.id));
  assert.equal(items.length, 1);
  await client.responses.delete(created.id);
  const gone = await failure(client.responses.retrieve(created.id));
  assert.ok(gone instanceof OpenAI.NotFoundError);
  return [created, items, gone.error];
});

same('responses: background, polled', async (side) => {
  const client = side.openai();
  const seen = [await client.responses.create({ model: RESPONSES, input: 'slowly', background: true })];
  while (['queued', 'in_progress'].includes(seen.at(-1).status)) seen.push(await client.responses.retrieve(seen[0].id));
  assert.deepEqual(seen.map((one) => one.status), ['queued', 'in_progress', 'completed']);
  return seen;
});

same('responses: cancel', async (side) => {
  const client = side.openai();
  const created = await client.responses.create({ model: RESPONSES, input: 'stop', background: true });
  const cancelled = await client.responses.cancel(created.id);
  assert.equal(cancelled.status, 'cancelled');
  return cancelled;
});

same('responses: streamed', async (side) => {
  const events = await all(await side.openai().responses.create({ model: RESPONSES, input: 'a b', stream: true }));
  assert.equal(events.at(-1).type, 'response.completed');
  return events;
});

same('responses: stream helper', async (side) => {
  const final = await side.openai().responses.stream({ model: RESPONSES, input: 'a b' }).finalResponse();
  assert.equal(final.output_text, 'You said: a b');
  return final;
});

same('responses: tools and structured output', async (side) => {
  const client = side.openai();
  const tools = [{ type: 'function', name: 'get_weather', parameters, strict: true }];
  const called = await client.responses.create({ model: RESPONSES, input: 'Oslo', tools });
  assert.deepEqual(JSON.parse(called.output[0].arguments), { city: 'Oslo' });
  const text = { format: zodTextFormat(City, 'city') };
  const parsed = await client.responses.parse({ model: RESPONSES, input: 'Paris', text });
  assert.deepEqual(parsed.output_parsed, { name: 'Paris', people: 7 });
  return [called, parsed];
});

same('upstream errors keep their kind', async (side) => {
  const model = 'fault:status=429,retry-after=7';
  const error = await failure(side.openai().chat.completions.create({ model, messages: ask('x') }));
  assert.ok(error instanceof OpenAI.RateLimitError);
  assert.equal(error.headers.get('retry-after'), '7');
  return error.error;
});

same('a wrong key is an authentication error', async (side) => {
  const error = await failure(side.openai('wrong').chat.completions.create({ model: CHAT, messages: ask('x') }));
  assert.ok(error instanceof OpenAI.AuthenticationError);
  return error.status;
});

same('a stream that is cut is an error', async (side) => {
  const options = { model: 'fault:reset-at=700', messages: ask('x'), stream: true };
  const stream = await side.openai().chat.completions.create(options);
  return (await failure(all(stream))) instanceof Error;
});
