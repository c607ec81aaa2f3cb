import assert from "node:assert/strict";
import { test } from "node:test";
import { gateway, keys, notCharged, question, refusals } from "./harness.mjs";
import Anthropic from "@anthropic-ai/sdk";
import { ApiError, GoogleGenAI } from "@google/genai";
import OpenAI from "openai";

const messages = [{ role: "user", content: question }];

// Each SDK: a call with a key, and the class that its error must have.
const sdks = {
  openai: {
    call: (apiKey) =>
      new OpenAI({ baseURL: `${gateway}/openai/v1`, apiKey }).chat.completions.create({ model: "gpt-4o", messages }),
    types: { 401: OpenAI.AuthenticationError, 403: OpenAI.PermissionDeniedError },
  },
  anthropic: {
    call: (apiKey) =>
      new Anthropic({ baseURL: `${gateway}/anthropic`, apiKey }).messages.create({
        model: "claude-haiku-4-5",
        max_tokens: 1024,
        messages,
      }),
    types: { 401: Anthropic.AuthenticationError, 403: Anthropic.PermissionDeniedError },
  },
  gemini: {
    call: (apiKey) =>
      new GoogleGenAI({ apiKey, httpOptions: { baseUrl: `${gateway}/gemini` } }).models.generateContent({
        model: "gemini-2.5-flash",
        contents: question,
      }),
    types: { 401: ApiError, 403: ApiError },
  },
};

for (const [sdk, { call, types }] of Object.entries(sdks)) {
  for (const [name, want] of Object.entries(refusals)) {
    test(`${sdk}: ${name}`, async () => {
      await assert.rejects(call(keys[name]), (error) => {
        assert.ok(error instanceof types[want.status], `${error?.constructor?.name}: ${error}`);
        assert.equal(error.status, want.status);
        // The gateway's string is the message, or the code beside it.
        assert.match(`${error.message} ${error.code} ${JSON.stringify(error.error)}`, new RegExp(want.message));
        return true;
      });
      await notCharged();
    });
  }
}
