import assert from "node:assert/strict";
import { test } from "node:test";
import { booked, cases, gateway, key, question, weather } from "./harness.mjs";
import Anthropic from "@anthropic-ai/sdk";

const messages = [{ role: "user", content: question }];
const client = new Anthropic({ baseURL: `${gateway}/anthropic`, apiKey: key });
const scripted = (name) => ({ headers: cases[name].script });

test("messages", async () => {
  const { model } = cases["anthropic/messages"];
  const message = await client.messages.create({ model, max_tokens: 1024, messages }, scripted("anthropic/messages"));
  assert.ok(message.content[0].text);
  await booked("anthropic/messages");
});

test("messages stream", async () => {
  const name = "anthropic/messages stream";
  const stream = client.messages.stream({ model: cases[name].model, max_tokens: 1024, messages }, scripted(name));
  const message = await stream.finalMessage();
  assert.ok(message.content[0].text);
  await booked(name);
});

test("tools", async () => {
  const tools = [{ name: weather.name, input_schema: weather.schema }];
  const request = { model: cases["anthropic/tool call"].model, max_tokens: 1024, messages, tools };
  const call = await client.messages.create(request, scripted("anthropic/tool call"));
  await booked("anthropic/tool call");
  const use = call.content.find((block) => block.type === "tool_use");
  assert.equal(use.name, weather.name);
  const result = { role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: "20 degrees" }] };
  const answer = await client.messages.create(
    { ...request, messages: [...messages, { role: "assistant", content: call.content }, result] },
    scripted("anthropic/tool result"),
  );
  assert.ok(answer.content[0].text);
  await booked("anthropic/tool result");
});

test("count tokens", async () => {
  const { model } = cases["anthropic/count tokens"];
  const count = await client.messages.countTokens({ model, messages });
  assert.ok(count.input_tokens > 0);
  await booked("anthropic/count tokens");
});
