// The official Anthropic library: messages, streams, tools, token counts, models.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import Anthropic from '@anthropic-ai/sdk';

import { CLAUDE, DIRECT, GATEWAY, all, failure, same } from './sides.mjs';

const ask = (content) => ({ model: CLAUDE, max_tokens: 64, messages: [{ role: 'user', content }] });
const tools = [
  {
    name: 'get_weather',
    input_schema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
];

same('messages', async (side) => {
  const answer = await side.anthropic().messages.create({ ...ask('Grüße 👋'), system: 'Be brief.' });
  assert.equal(answer.content[0].text, 'You said: Grüße 👋');
  return answer;
});

same('messages, streamed', async (side) => {
  const events = await all(await side.anthropic().messages.create({ ...ask('a b'), stream: true }));
  assert.equal(events.at(-1).type, 'message_stop');
  return events;
});

same('messages, stream helper', async (side) => {
  const stream = side.anthropic().messages.stream(ask('日本 語'));
  const texts = [];
  stream.on('text', (text) => texts.push(text));
  const final = await stream.finalMessage();
  assert.equal(texts.join(''), 'You said: 日本 語');
  return [texts, final];
});

same('tools', async (side) => {
  const client = side.anthropic();
  const first = await client.messages.create({ ...ask('Oslo'), tools });
  assert.deepEqual(first.content[0].input, { city: 'Oslo' });
  const result = { type: 'tool_result', tool_use_id: first.content[0].id, content: 'rain' };
  const messages = [
    ...ask('Oslo').messages,
    { role: 'assistant', content: first.content },
    { role: 'user', content: [result] },
  ];
  const second = await client.messages.create({ ...ask(''), messages, tools });
  assert.equal(second.content[0].text, 'The tool said: rain');
  return [first, second];
});

same('tools, streamed', async (side) => {
  const stream = side.anthropic().messages.stream({ ...ask('Oslo'), tools });
  const pieces = [];
  stream.on('inputJson', (piece) => pieces.push(piece));
  const final = await stream.finalMessage();
  assert.ok(pieces.length > 1);
  assert.deepEqual(final.content[0].input, { city: 'Oslo' });
  return [pieces, final];
});

same('structured output', async (side) => {
  const schema = {
    type: 'object',
    properties: { name: { type: 'string' } },
    required: ['name'],
    additionalProperties: false,
  };
  const output_config = { format: { type: 'json_schema', schema } };
  const answer = await side.anthropic().messages.create({ ...ask('Paris'), output_config });
  assert.deepEqual(JSON.parse(answer.content[0].text), { name: 'Paris' });
  return answer;
});

same('count of tokens', async (side) => {
  const { model, messages } = ask('one two three');
  const count = await side.anthropic().messages.countTokens({ model, messages });
  assert.equal(count.input_tokens, 3);
  return count;
});

same('upstream errors keep their kind', async (side) => {
  const model = `${side.anthropicPrefix}fault:status=429,retry-after=7`;
  const error = await failure(side.anthropic().messages.create({ ...ask('x'), model }));
  assert.ok(error instanceof Anthropic.RateLimitError);
  assert.equal(error.headers.get('retry-after'), '7');
  return error.error;
});

same('a wrong key is an authentication error', async (side) => {
  const error = await failure(side.anthropic('wrong').messages.create(ask('x')));
  assert.ok(error instanceof Anthropic.AuthenticationError);
  return error.status;
});

test('list of models', async () => {
  const ids = async (side) => (await all(side.anthropic().models.list())).map((model) => model.id);
  const [direct, through] = [await ids(DIRECT), await ids(GATEWAY)];
  assert.equal(direct.length, 5, 'the provider pages by two');
  assert.deepEqual(direct.filter((id) => !through.includes(id)), []);
});
