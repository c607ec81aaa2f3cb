import assert from "node:assert/strict";
import { test } from "node:test";
import { booked, cases, gateway, key, question, weather } from "./harness.mjs";
import { GoogleGenAI } from "@google/genai";

const client = new GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: `${gateway}/gemini` } });
const scripted = (name) => ({ httpOptions: { headers: cases[name].script } });

test("generate", async () => {
  const name = "gemini/generate";
  const answer = await client.models.generateContent({ model: cases[name].model, contents: question, config: scripted(name) });
  assert.ok(answer.text);
  await booked(name);
});

test("generate stream", async () => {
  const name = "gemini/generate stream";
  const request = { model: cases[name].model, contents: question, config: scripted(name) };
  let text = "";
  for await (const chunk of await client.models.generateContentStream(request)) text += chunk.text ?? "";
  assert.ok(text);
  await booked(name);
});

test("tools", async () => {
  const { model } = cases["gemini/tool call"];
  const tools = [{ functionDeclarations: [{ name: weather.name, parametersJsonSchema: weather.schema }] }];
  const asked = { role: "user", parts: [{ text: question }] };
  const call = await client.models.generateContent({
    model,
    contents: [asked],
    config: { tools, ...scripted("gemini/tool call") },
  });
  await booked("gemini/tool call");
  assert.equal(call.functionCalls[0].name, weather.name);
  const result = { functionResponse: { name: weather.name, response: { result: "20 degrees" } } };
  const answer = await client.models.generateContent({
    model,
    contents: [asked, call.candidates[0].content, { role: "user", parts: [result] }],
    config: { tools, ...scripted("gemini/tool result") },
  });
  assert.ok(answer.text);
  await booked("gemini/tool result");
});

test("count tokens", async () => {
  const { model } = cases["gemini/count tokens"];
  const count = await client.models.countTokens({ model, contents: question });
  assert.ok(count.totalTokens > 0);
  await booked("gemini/count tokens");
});
