// Vercel's AI SDK with its OpenAI-compatible provider.

import assert from 'node:assert/strict';

import { embedMany, generateObject, generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

import { CHAT, EMBEDDING, all, failure, same } from './sides.mjs';

const options = (side, prompt) => ({ model: side.aiSdk()(CHAT), prompt, maxRetries: 0 });

same('text', async (side) => {
  const answer = await generateText(options(side, 'hello there'));
  assert.equal(answer.text, 'You said: hello there');
  return [answer.text, answer.usage, answer.finishReason];
});

same('text, streamed', async (side) => {
  const answer = streamText(options(side, 'a b'));
  const deltas = await all(answer.textStream);
  assert.equal(deltas.join(''), 'You said: a b');
  return [deltas, await answer.usage, await answer.finishReason];
});

same('tools, run by the library', async (side) => {
  const called = [];
  const inputSchema = z.object({ city: z.string() });
  const get_weather = tool({ inputSchema, execute: async ({ city }) => (called.push(city), 'rain') });
  const answer = await generateText({ ...options(side, 'Oslo'), tools: { get_weather }, stopWhen: stepCountIs(3) });
  assert.deepEqual(called, ['Oslo']);
  assert.match(answer.text, /^The tool said: /);
  return answer.text;
});

same('structured output', async (side) => {
  const schema = z.object({ name: z.string(), people: z.number().int() });
  const answer = await generateObject({ ...options(side, 'Paris'), schema });
  assert.equal(answer.object.name, 'Paris');
  return answer.object;
});

same('embeddings', async (side) => {
  const model = side.aiSdk().textEmbeddingModel(EMBEDDING);
  const { embeddings } = await embedMany({ model, values: ['one', 'two'] });
  assert.notDeepEqual(embeddings[0], embeddings[1]);
  return embeddings;
});

same('upstream errors keep their status', async (side) => {
  const error = await failure(generateText({ model: side.aiSdk()('fault:status=429'), prompt: 'x', maxRetries: 0 }));
  assert.equal(error.statusCode, 429);
  return error.responseBody;
});
