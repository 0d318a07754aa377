// The official OpenAI library on models that run here.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { CAPITAL, DEMO, MINILM, PARIS, all, ask, client } from './here.mjs';

const Person = z.object({ name: z.string(), age: z.number().int() });
const parameters = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};
const description = 'Get the current weather in a given location.';
const weather = { type: 'function', function: { name: 'get_weather', description, parameters, strict: true } };
const called = (message) => message.tool_calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]);

test('chat', async () => {
  const answer = await client.chat.completions.create(ask(CAPITAL));
  assert.equal(answer.choices[0].message.content, PARIS);
  assert.equal(answer.choices[0].finish_reason, 'stop');
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test('chat, streamed', async () => {
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = await all(await client.chat.completions.create(ask(CAPITAL, options)));
  assert.equal(chunks[0].choices[0].delta.role, 'assistant');
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), PARIS);
  assert.ok(chunks.at(-1).usage.completion_tokens > 1);
});

test('a stream that is left is over', async () => {
  const stream = await client.chat.completions.create(ask('Count to 20.', { stream: true }));
  for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
  const answer = await client.chat.completions.create(ask(CAPITAL));
  assert.equal(answer.choices[0].message.content, PARIS);
});

test('several choices, a stop, a limit and logprobs', async () => {
  const several = await client.chat.completions.create(ask(CAPITAL, { n: 2 }));
  assert.deepEqual(several.choices.map((choice) => choice.message.content), [PARIS, PARIS]);
  const stopped = await client.chat.completions.create(ask('Count to 5.', { stop: ', 3' }));
  assert.equal(stopped.choices[0].message.content, '1, 2');
  const limited = await client.chat.completions.create(ask('Count to 20.', { max_tokens: 4 }));
  assert.equal(limited.choices[0].finish_reason, 'length');
  const likely = await client.chat.completions.create(ask(CAPITAL, { logprobs: true, top_logprobs: 2 }));
  assert.equal(likely.choices[0].logprobs.content.map((token) => token.token).join(''), PARIS);
});

test('the same seed says the same', async () => {
  const hot = ask('Tell me a story.', { temperature: 2, seed: 7, max_tokens: 40 });
  const [one, two] = [await client.chat.completions.create(hot), await client.chat.completions.create(hot)];
  assert.equal(one.choices[0].message.content, two.choices[0].message.content);
});

test('tools', async () => {
  const answer = await client.chat.completions.create(ask('What is the weather in Paris?', { tools: [weather] }));
  assert.deepEqual(called(answer.choices[0].message), [['get_weather', { city: 'Paris' }]]);
  assert.equal(answer.choices[0].finish_reason, 'tool_calls');
});

test('parallel tools, streamed', async () => {
  const options = { tools: [weather], parallel_tool_calls: true };
  const stream = client.chat.completions.stream(ask('What is the weather in Paris and Rome?', options));
  const final = await stream.finalChatCompletion();
  const both = [['get_weather', { city: 'Paris' }], ['get_weather', { city: 'Rome' }]];
  assert.deepEqual(called(final.choices[0].message), both);
});

test('tools, run by the library', async () => {
  const cities = [];
  const run = ({ city }) => (cities.push(city), `It is windy in ${city}.`);
  const tool = { name: 'get_weather', description, parameters, parse: JSON.parse, function: run };
  const options = ask('What is the weather in Lisbon?', { tools: [{ type: 'function', function: tool }] });
  const text = await client.chat.completions.runTools(options).finalContent();
  assert.deepEqual(cities, ['Lisbon']);
  assert.match(text, /windy/);
});

test('structured output', async () => {
  const options = { response_format: zodResponseFormat(Person, 'person') };
  const answer = await client.chat.completions.parse(ask('Jane is 54 years old', options));
  const parsed = Person.parse(answer.choices[0].message.parsed);
  const stream = client.chat.completions.stream(ask('Jane is 54 years old', options));
  assert.deepEqual((await stream.finalChatCompletion()).choices[0].message.parsed, parsed);
});

test('completions', async () => {
  const prompt = `<|im_start|>user\n${CAPITAL}<|im_end|>\n<|im_start|>assistant\n`;
  const options = { model: DEMO, prompt, temperature: 0, max_tokens: 50 };
  assert.equal((await client.completions.create(options)).choices[0].text, PARIS);
  const chunks = await all(await client.completions.create({ ...options, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), PARIS);
});

test('embeddings', async () => {
  // The library asks for base64 by itself and decodes it.
  const input = ['The cat sits outside', 'A cat is outside', 'Stocks fell sharply'];
  const { data } = await client.embeddings.create({ model: MINILM, input });
  const floats = await client.embeddings.create({ model: MINILM, input, encoding_format: 'float' });
  const product = (a, b) => a.reduce((sum, x, n) => sum + x * b[n], 0);
  const [cat, other, stocks] = data.map((one) => one.embedding);
  assert.equal(cat.length, 384);
  assert.ok(product(cat, other) > product(cat, stocks));
  assert.ok(product(cat, floats.data[0].embedding) > 0.99999);
});
