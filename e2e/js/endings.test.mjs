// The SDKs against the golden ends of package ending, without a gateway: what
// they make of streams that are cut off between two items, in a tool's
// arguments, in a thought.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import http from "node:http";
import { after, before, test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import OpenAI from "openai";

const golden = (name) => readFileSync(new URL(`../../internal/ending/testdata/${name}`, import.meta.url), "utf8");

// stream is a golden's events in the form of its provider, and then its end.
function stream(name) {
  const lineEnd = name.startsWith("gemini") ? "\r\n" : "\n";
  const frame = (data) => {
    const { type } = JSON.parse(data);
    return (type ? `event: ${type}${lineEnd}` : "") + `data: ${data}${lineEnd}${lineEnd}`;
  };
  const events = golden(`${name}.events`).split("\n").filter(Boolean);
  return events.map(frame).join("") + golden(`${name}.end`);
}

let current;
const server = http.createServer((request, response) => {
  request.resume();
  request.on("end", () => {
    response.setHeader("content-type", "text/event-stream");
    response.end(stream(current));
  });
});
let base;
before(() => new Promise((resolve) => server.listen(0, "127.0.0.1", resolve)).then(() => {
  base = `http://127.0.0.1:${server.address().port}`;
}));
after(() => server.close());

const messages = [{ role: "user", content: "Hello" }];
const options = { apiKey: "any", maxRetries: 0 };

const calls = {
  async chat() {
    const client = new OpenAI({ baseURL: `${base}/v1`, ...options });
    const completion = await client.chat.completions.stream({ model: "m", messages }).finalChatCompletion();
    return completion.choices.map((choice) => choice.finish_reason);
  },
  async responses() {
    const client = new OpenAI({ baseURL: `${base}/v1`, ...options });
    const response = await client.responses.stream({ model: "m", input: "Hello" }).finalResponse();
    return [response.status, ...response.output.map((item) => item.status)];
  },
  async messages() {
    const client = new Anthropic({ baseURL: base, ...options });
    const message = await client.messages.stream({ model: "m", max_tokens: 1, messages }).finalMessage();
    return [message.stop_reason, ...message.content.map((block) => block.type)];
  },
  async gemini() {
    const client = new GoogleGenAI({ apiKey: "any", httpOptions: { baseUrl: base } });
    let last;
    for await (const chunk of await client.models.generateContentStream({ model: "m", contents: "Hello" })) last = chunk;
    return last.candidates.map((candidate) => candidate.finishReason);
  },
};

for (const [name, want] of Object.entries({
  chat: ["length"],
  chat_usage: ["length"],
  chat_choices: ["length", "stop", "length"],
  chat_finished: ["stop"],
  chat_nothing: ["length"],
  responses_text: ["incomplete", "incomplete"],
  responses_call: ["incomplete", "incomplete"],
  responses_reasoning: ["incomplete", "incomplete"],
  responses_between_items: ["incomplete", undefined, "completed"],
  messages_text: ["max_tokens", "thinking", "text"],
  messages_between_blocks: ["max_tokens", "text"],
  gemini: ["MAX_TOKENS"],
  gemini_candidates: ["MAX_TOKENS"],
})) {
  test(name, async () => {
    current = name;
    assert.deepEqual(await calls[name.split("_")[0]](), want);
  });
}
