// What the Go harness hands over, and the way back to it: after each call the
// harness is asked whether exactly that call was booked.
import assert from "node:assert/strict";

const { gateway, key, keys, cases, refusals, endless, check } = JSON.parse(process.env.E2E);
export { cases, endless, gateway, key, keys, refusals };

// The SDKs take the global fetch, so this sees every response.
const fetchForReal = globalThis.fetch;
let lastRequestId = null;
globalThis.fetch = async (...request) => {
  const response = await fetchForReal(...request);
  lastRequestId = response.headers.get("x-request-id");
  return response;
};

async function ask(question) {
  assert.ok(lastRequestId, "the response had no X-Request-Id");
  const response = await fetchForReal(check, {
    method: "POST",
    body: JSON.stringify({ ...question, request_id: lastRequestId }),
  });
  lastRequestId = null;
  assert.equal(response.status, 200, await response.text());
}

// booked fails unless the last call is in the books as the case says.
export const booked = (name) => ask({ case: name });

// notCharged fails if the last call left a debit.
export const notCharged = () => ask({});

// wasCutOff fails unless the last call is in the books as cut off for want of
// money, with as many generated tokens as its client was told, if it was.
export const wasCutOff = (told) => ask({ cut_off: true, told });

export const question = "What is the weather in Paris?";

export const weather = {
  name: "get_weather",
  schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
