// Vercel's AI SDK on models that run here.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { embedMany, generateObject, generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

import { CAPITAL, DEMO, MINILM, PARIS, aiSdk, all } from './here.mjs';

const options = (prompt) => ({ model: aiSdk(DEMO), prompt, temperature: 0, maxOutputTokens: 200, maxRetries: 0 });

function weather(cities) {
  const execute = async ({ city }) => (cities.push(city), `It is windy in ${city}.`);
  const description = 'Get the current weather in a given location.';
  return { get_weather: tool({ description, inputSchema: z.object({ city: z.string() }), execute }) };
}

test('text', async () => {
  const answer = await generateText(options(CAPITAL));
  assert.equal(answer.text, PARIS);
  assert.equal(answer.finishReason, 'stop');
  assert.ok(answer.usage.outputTokens > 1);
});

test('text, streamed', async () => {
  const answer = streamText(options(CAPITAL));
  const deltas = await all(answer.textStream);
  assert.equal(deltas.join(''), PARIS);
  assert.ok((await answer.usage).outputTokens > 1);
});

test('an agent: tools, run by the library', async () => {
  const cities = [];
  const loop = { tools: weather(cities), stopWhen: stepCountIs(4) };
  const answer = await generateText({ ...options('What is the weather in Lisbon?'), ...loop });
  assert.deepEqual(cities, ['Lisbon']);
  assert.match(answer.text, /windy/);
});

test('an agent, streamed, with parallel tools', async () => {
  const cities = [];
  const loop = { tools: weather(cities), stopWhen: stepCountIs(4) };
  const answer = streamText({ ...options('What is the weather in Paris and Rome?'), ...loop });
  await all(answer.textStream);
  assert.deepEqual(cities.sort(), ['Paris', 'Rome']);
});

test('structured output', async () => {
  const schema = z.object({ name: z.string(), age: z.number().int() });
  const answer = await generateObject({ ...options('Jane is 54 years old'), schema });
  schema.parse(answer.object);
});

test('embeddings', async () => {
  const { embeddings } = await embedMany({ model: aiSdk.textEmbeddingModel(MINILM), values: ['one', 'two'] });
  assert.equal(embeddings[0].length, 384);
  assert.notDeepEqual(embeddings[0], embeddings[1]);
});
