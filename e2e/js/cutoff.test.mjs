import assert from "node:assert/strict";
import { test } from "node:test";
import { endless, gateway, keys, question, wasCutOff } from "./harness.mjs";
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import OpenAI from "openai";

// Each key lasts for a part of one stream.
const messages = [{ role: "user", content: question }];
const headers = endless;
const openAI = (name) => new OpenAI({ baseURL: `${gateway}/openai/v1`, apiKey: keys[`js ${name}`] });

test("openai: chat", async () => {
  const request = { model: "gpt-4o", messages, stream: true };
  let finish;
  let text = "";
  for await (const chunk of await openAI("chat").chat.completions.create(request, { headers })) {
    text += chunk.choices[0].delta.content ?? "";
    finish = chunk.choices[0].finish_reason ?? finish;
  }
  assert.ok(text);
  assert.equal(finish, "length");
  await wasCutOff();
});

test("openai: chat with usage", async () => {
  const request = { model: "gpt-4o", messages, stream: true, stream_options: { include_usage: true } };
  let usage;
  let finish;
  for await (const chunk of await openAI("chat with usage").chat.completions.create(request, { headers })) {
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
  }
  assert.equal(finish, "length");
  await wasCutOff(usage.completion_tokens);
});

test("openai: chat, accumulated", async () => {
  const request = { model: "gpt-4o", messages, stream_options: { include_usage: true } };
  const stream = openAI("chat helper").chat.completions.stream(request, { headers });
  const completion = await stream.finalChatCompletion();
  assert.ok(completion.choices[0].message.content);
  assert.equal(completion.choices[0].finish_reason, "length");
  await wasCutOff(completion.usage.completion_tokens);
});

test("openai: responses", async () => {
  let text = "";
  let last;
  const request = { model: "gpt-5-mini", input: question, stream: true };
  for await (const event of await openAI("responses").responses.create(request, { headers })) {
    if (event.type === "response.output_text.delta") text += event.delta;
    assert.equal(event.sequence_number, (last?.sequence_number ?? -1) + 1);
    last = event;
  }
  assert.equal(last.type, "response.incomplete");
  assert.equal(last.response.output[0].content[0].text, text);
  await wasCutOff(last.response.usage.output_tokens);
});

test("openai: responses, accumulated", async () => {
  const stream = openAI("responses helper").responses.stream({ model: "gpt-5-mini", input: question }, { headers });
  const response = await stream.finalResponse();
  assert.equal(response.status, "incomplete");
  assert.equal(response.incomplete_details.reason, "max_output_tokens");
  assert.ok(response.output_text);
  await wasCutOff(response.usage.output_tokens);
});

test("anthropic", async () => {
  const client = new Anthropic({ baseURL: `${gateway}/anthropic`, apiKey: keys["js messages"] });
  const stream = client.messages.stream({ model: "claude-haiku-4-5", max_tokens: 64000, messages }, { headers });
  const message = await stream.finalMessage();
  assert.ok(message.content[0].text);
  assert.equal(message.stop_reason, "max_tokens");
  await wasCutOff(message.usage.output_tokens);
});

test("gemini", async () => {
  const client = new GoogleGenAI({ apiKey: keys["js gemini"], httpOptions: { baseUrl: `${gateway}/gemini` } });
  const request = { model: "gemini-2.5-pro", contents: question, config: { httpOptions: { headers } } };
  let text = "";
  let last;
  for await (const chunk of await client.models.generateContentStream(request)) {
    text += chunk.text ?? "";
    last = chunk;
  }
  assert.ok(text);
  assert.equal(last.candidates[0].finishReason, "MAX_TOKENS");
  await wasCutOff(last.usageMetadata.candidatesTokenCount);
});
