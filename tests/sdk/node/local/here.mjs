// The gateway that the suite talks to, and the models that it runs itself.

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import OpenAI from 'openai';

const url = `${process.env.GATEWAY_URL.replace(/\/$/, '')}/v1`;
const token = process.env.GATEWAY_TOKEN;

export const DEMO = 'demo';
export const MINILM = 'minilm';
export const CAPITAL = 'What is the capital of France?';
export const PARIS = 'The capital of France is Paris.';

export const client = new OpenAI({ baseURL: url, apiKey: token, maxRetries: 0, timeout: 60_000 });

/** A question as the library takes it, asked as surely as the model can. */
export function ask(content, options = {}) {
  return { model: DEMO, temperature: 0, max_tokens: 200, messages: [{ role: 'user', content }], ...options };
}

const options = { name: 'bodhi', baseURL: url, apiKey: token };
export const aiSdk = createOpenAICompatible({ ...options, includeUsage: true, supportsStructuredOutputs: true });

export async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}
