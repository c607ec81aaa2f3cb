// Each row of the table of errors, at a URL of its own where good requests get
// that error, as the SDKs raise it: those that it has a class for.
import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import * as Google from "@google/genai";
import OpenAI from "openai";

const { checks } = JSON.parse(process.env.E2E);
const apiKey = "sk-proxy-of-the-situation";
const messages = [{ role: "user", content: "hello" }];

// Each SDK: where its error classes are, a call, and where the gateway's string
// is in its error.
const sdks = {
  openai: {
    types: OpenAI,
    call: (url) =>
      new OpenAI({ baseURL: `${url}/openai/v1`, apiKey, maxRetries: 0 }).chat.completions.create({
        model: "gpt-4o-mini",
        messages,
      }),
    code: (error) => error.code,
  },
  anthropic: {
    types: Anthropic,
    call: (url) =>
      new Anthropic({ baseURL: `${url}/anthropic`, apiKey, maxRetries: 0 }).messages.create({
        model: "claude-haiku-4-5",
        max_tokens: 99,
        messages,
      }),
    code: (error) => error.error.error.code,
  },
  gemini: {
    types: Google,
    call: (url) =>
      new Google.GoogleGenAI({ apiKey, httpOptions: { baseUrl: `${url}/gemini` } }).models.generateContent({
        model: "gemini-2.5-flash",
        contents: "hello",
      }),
    code: (error) => JSON.parse(error.message).error.details[0].reason,
  },
};

for (const [sdk, { types, call, code }] of Object.entries(sdks)) {
  for (const want of checks.filter((check) => check.classes[sdk])) {
    test(`${sdk}: ${want.error}`, async () => {
      await assert.rejects(call(want.url), (error) => {
        assert.equal(error.constructor, types[want.classes[sdk]], `${error?.constructor?.name}: ${error}`);
        assert.equal(error.status, want.status);
        assert.equal(code(error), want.error);
        return true;
      });
    });
  }
}
