import assert from "node:assert/strict";
import { test } from "node:test";
import { booked, cases, gateway, key, question, weather } from "./harness.mjs";
import OpenAI from "openai";

const messages = [{ role: "user", content: question }];
const client = new OpenAI({ baseURL: `${gateway}/openai/v1`, apiKey: key });
const scripted = (name) => ({ headers: cases[name].script });

test("chat", async () => {
  const { model } = cases["openai/chat"];
  const completion = await client.chat.completions.create({ model, messages }, scripted("openai/chat"));
  assert.ok(completion.choices[0].message.content);
  await booked("openai/chat");
});

test("chat stream, usage asked for", async () => {
  const name = "openai/chat stream";
  const request = { model: cases[name].model, messages, stream: true, stream_options: { include_usage: true } };
  let text = "";
  let usage;
  for await (const chunk of await client.chat.completions.create(request, scripted(name))) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.ok(text);
  assert.ok(usage.total_tokens > 0);
  await booked(name);
});

test("tools", async () => {
  const { model } = cases["openai/tool call"];
  const tools = [{ type: "function", function: { name: weather.name, parameters: weather.schema } }];
  const call = await client.chat.completions.create({ model, messages, tools }, scripted("openai/tool call"));
  await booked("openai/tool call");
  const { message } = call.choices[0];
  assert.equal(message.tool_calls[0].function.name, weather.name);
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "20 degrees" };
  const answer = await client.chat.completions.create(
    { model, messages: [...messages, message, result], tools },
    scripted("openai/tool result"),
  );
  assert.ok(answer.choices[0].message.content);
  await booked("openai/tool result");
});

test("embeddings", async () => {
  const { model } = cases["openai/embeddings"];
  const embedding = await client.embeddings.create({ model, input: "hello" }, scripted("openai/embeddings"));
  assert.ok(embedding.data[0].embedding.length > 0);
  await booked("openai/embeddings");
});

test("responses", async () => {
  const { model } = cases["openai/responses"];
  const response = await client.responses.create({ model, input: question }, scripted("openai/responses"));
  assert.ok(response.output_text);
  await booked("openai/responses");
});

test("responses stream", async () => {
  const name = "openai/responses stream";
  let text = "";
  let completed;
  const request = { model: cases[name].model, input: question, stream: true };
  for await (const event of await client.responses.create(request, scripted(name))) {
    if (event.type === "response.output_text.delta") text += event.delta;
    if (event.type === "response.completed") completed = event.response;
  }
  assert.ok(text);
  assert.ok(completed.usage.total_tokens > 0);
  await booked(name);
});
