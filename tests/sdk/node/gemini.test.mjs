// The official Google library: generateContent, streams, tools, embeddings, token counts, models.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ApiError } from '@google/genai';

import { DIRECT, GATEWAY, GEMINI, GEMINI_EMBEDDING, all, failure, same } from './sides.mjs';

const model = GEMINI;
const functionDeclarations = [
  {
    name: 'get_weather',
    description: 'Weather of a city',
    parametersJsonSchema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
];

/** An answer without the transport's headers, which name connections and dates. */
function facts(answer) {
  return { ...JSON.parse(JSON.stringify(answer)), sdkHttpResponse: null };
}

same('generateContent', async (side) => {
  const answer = await side.gemini().models.generateContent({ model, contents: 'Grüße 👋' });
  assert.equal(answer.text, 'You said: Grüße 👋');
  return facts(answer);
});

same('generateContent, streamed', async (side) => {
  const chunks = await all(await side.gemini().models.generateContentStream({ model, contents: 'a b' }));
  assert.equal(chunks.map((chunk) => chunk.text).join(''), 'You said: a b');
  return chunks.map(facts);
});

same('chat helper', async (side) => {
  const chat = side.gemini().chats.create({ model });
  const first = await chat.sendMessage({ message: 'one' });
  const second = await all(await chat.sendMessageStream({ message: 'two' }));
  assert.equal(second.map((chunk) => chunk.text).join(''), 'You said: two');
  return [facts(first), second.map(facts)];
});

same('tools', async (side) => {
  const client = side.gemini();
  const config = { tools: [{ functionDeclarations }] };
  const first = await client.models.generateContent({ model, contents: 'Oslo', config });
  const [call] = first.functionCalls;
  assert.deepEqual(call.args, { city: 'Oslo' });
  const part = { functionResponse: { name: call.name, response: { sky: 'rain' } } };
  const contents = [
    { role: 'user', parts: [{ text: 'Oslo' }] },
    first.candidates[0].content,
    { role: 'user', parts: [part] },
  ];
  const second = await client.models.generateContent({ model, contents, config });
  assert.equal(second.text, 'The tool said: {"sky":"rain"}');
  return [facts(first), facts(second)];
});

same('structured output', async (side) => {
  const responseSchema = { type: 'OBJECT', properties: { name: { type: 'STRING' }, people: { type: 'INTEGER' } } };
  const config = { responseMimeType: 'application/json', responseSchema };
  const answer = await side.gemini().models.generateContent({ model, contents: 'Paris', config });
  assert.deepEqual(JSON.parse(answer.text), { name: 'Paris', people: 7 });
  return facts(answer);
});

same('embeddings', async (side) => {
  const answer = await side.gemini().models.embedContent({ model: GEMINI_EMBEDDING, contents: ['one', 'two'] });
  assert.equal(answer.embeddings.length, 2);
  return facts(answer);
});

same('count of tokens', async (side) => {
  const count = await side.gemini().models.countTokens({ model, contents: 'one two three' });
  assert.equal(count.totalTokens, 3);
  return facts(count);
});

same('upstream errors keep their kind', async (side) => {
  const request = { model: `${side.geminiPrefix}fault:status=429`, contents: 'x' };
  const error = await failure(side.gemini().models.generateContent(request));
  assert.ok(error instanceof ApiError);
  assert.equal(error.status, 429);
  return error.message;
});

test('list of models', async () => {
  const names = async (side) => (await all(await side.gemini().models.list())).map((one) => one.name);
  const [direct, through] = [await names(DIRECT), await names(GATEWAY)];
  assert.equal(direct.length, 4, 'the provider pages by two');
  assert.deepEqual(direct.filter((name) => !through.includes(name)), []);
});
