// The two ways to a model: straight to the scripted provider, and through the gateway.
//
// A case is a function of a side. `same(name, case)` makes it a test that runs it on both sides and
// compares the results; the case itself asserts what the result has to be.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import Anthropic from '@anthropic-ai/sdk';
import { GoogleGenAI } from '@google/genai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import OpenAI from 'openai';

export const CHAT = 'gpt-4o-mini';
export const EMBEDDING = 'text-embedding-3-small';
export const RESPONSES = 'gpt-4o';
export const CLAUDE = 'claude-sonnet-4-5';
export const GEMINI = 'gemini-2.5-flash';
export const GEMINI_EMBEDDING = 'gemini-embedding-001';

class Side {
  // The prefixes go before the model names that are scripts (`fault:…`), which all formats share.
  constructor(name, openaiUrl, anthropicUrl, geminiUrl, key, anthropicPrefix = '', geminiPrefix = '') {
    Object.assign(this, { name, openaiUrl, anthropicUrl, geminiUrl, key, anthropicPrefix, geminiPrefix });
  }

  openai(apiKey = this.key) {
    return new OpenAI({ baseURL: this.openaiUrl, apiKey, maxRetries: 0, timeout: 20_000 });
  }

  anthropic(apiKey = this.key) {
    return new Anthropic({ baseURL: this.anthropicUrl, apiKey, maxRetries: 0, timeout: 20_000 });
  }

  gemini() {
    // The library's own default may be another version; Bodhi serves the one that has every feature.
    const httpOptions = { baseUrl: this.geminiUrl, apiVersion: 'v1beta', timeout: 20_000 };
    return new GoogleGenAI({ apiKey: this.key, vertexai: false, httpOptions });
  }

  aiSdk() {
    const options = { name: 'bodhi', baseURL: this.openaiUrl, apiKey: this.key };
    return createOpenAICompatible({ ...options, includeUsage: true, supportsStructuredOutputs: true });
  }
}

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run the suite with tests/sdk/run.sh`);
  return value.replace(/\/$/, '');
}

function direct() {
  const url = required('DIRECT_URL');
  const key = required('DIRECT_KEY');
  return new Side('direct', `${url}/openai/v1`, `${url}/anthropic`, `${url}/gemini`, key);
}

function gateway() {
  const url = required('GATEWAY_URL');
  return new Side('gateway', `${url}/v1`, `${url}/anthropic`, url, required('GATEWAY_TOKEN'), 'a/', 'g/');
}

export const DIRECT = direct();
// For work on the suite itself: without a gateway each case runs twice against the provider.
export const GATEWAY = process.env.DIRECT_ONLY === '1' ? DIRECT : gateway();

/** Plain data: no classes, no undefined, no properties that libraries hide. */
export function plain(value) {
  return JSON.parse(JSON.stringify(value));
}

export function same(name, run) {
  test(name, async () => {
    const direct = await run(DIRECT);
    assert.notEqual(direct, undefined, 'a case returns what is to be compared');
    assert.deepEqual(plain(await run(GATEWAY)), plain(direct));
  });
}

export async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

/** The error that the promise ends with. */
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new assert.AssertionError({ message: 'expected a failure' });
}
