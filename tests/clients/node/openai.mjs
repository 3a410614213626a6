// The openai package: chat completions, responses, embeddings, and its exceptions.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { AGENT_KEY, REASON, check, holds, raised } from "./place.mjs";

const messages = [{ role: "user", content: "hello" }];
const FUNCTIONS = ["get_customer", "drop_table"].map((name) => ({
  name,
  parameters: { type: "object", properties: {} },
}));
const CHAT_TOOLS = FUNCTIONS.map((fn) => ({ type: "function", function: fn }));
const RESPONSE_TOOLS = FUNCTIONS.map((fn) => ({ type: "function", strict: false, ...fn }));

function client(place, more = {}) {
  const options = { apiKey: AGENT_KEY, baseURL: place.openai, timeout: 20_000, ...more };
  return new OpenAI(place.fetch ? { ...options, fetch: place.fetch } : options);
}

const chat = (place, model, more = {}) =>
  client(place).chat.completions.create({ model, messages, tools: CHAT_TOOLS, ...more });
const respond = (place, model, more = {}) =>
  client(place).responses.create({ model, input: "hello", tools: RESPONSE_TOOLS, ...more });

async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

// Text, refusals included, and tool calls, put together from a chat stream.
async function streamed(chunks) {
  const found = { text: "", calls: [], finish: null };
  for (const { choices } of await all(chunks)) {
    for (const { delta, finish_reason } of choices) {
      found.text += (delta.content ?? "") + (delta.refusal ?? "");
      found.finish = finish_reason ?? found.finish;
      for (const piece of delta.tool_calls ?? []) {
        const call = (found.calls[piece.index] ??= { name: "", arguments: "" });
        call.name += piece.function.name ?? "";
        call.arguments += piece.function.arguments ?? "";
      }
    }
  }
  return found;
}

async function whole(answer) {
  const [{ message, finish_reason }] = (await answer).choices;
  const wanted = (message.tool_calls ?? []).map((call) => call.function);
  const calls = wanted.map(({ name, arguments: given }) => ({ name, arguments: given }));
  return { text: (message.content ?? "") + (message.refusal ?? ""), calls, finish: finish_reason };
}

// Text, refusals included, and tool calls of a response.
function items({ output }) {
  const parts = output.filter(({ type }) => type === "message").flatMap(({ content }) => content);
  const calls = output.filter(({ type }) => type === "function_call");
  return {
    text: parts.map((part) => part.text ?? part.refusal).join(""),
    calls: calls.map(({ name, arguments: given }) => ({ name, arguments: given })),
  };
}

async function bothWays(place, scenario) {
  return [
    await whole(chat(place, place.model(scenario))),
    await streamed(await chat(place, place.model(scenario), { stream: true })),
  ];
}

const governed = { governed: true };
const raises = { style: "error", governed: true };
const safe = (place) => ({ name: "get_customer", arguments: place.arguments });

export default [
  check("chat answers with text and usage", async (place) => {
    const model = place.model("text");
    const { data, response } = await client(place).chat.completions.create({ model, messages }).withResponse();
    assert.equal(data.choices[0].message.content, "Hello from the fake.");
    assert.deepEqual([data.usage.prompt_tokens, data.usage.completion_tokens], [11, 7]);
    assert.equal(await place.attempts(model), 1);
    if (place.governed) assert.equal(response.headers.get("x-sideguard-decision"), "allow");
  }),

  check("the agent's key never reaches the provider", async (place) => {
    const model = place.model("text");
    await chat(place, model);
    assert.deepEqual((await place.seen(model)).keys, ["Bearer sk-upstream"]);
  }, governed),

  check("streamed text flows before the answer ends", async (place) => {
    const model = place.model("slow");
    let text = "";
    for await (const { choices } of await chat(place, model, { stream: true })) {
      assert.equal(choices.length, 1, "usage was not asked for");
      if (text === "" && choices[0].delta.content) await place.go(model);
      text += choices[0].delta.content ?? "";
    }
    assert.equal(text, "One two three.");
    assert.equal(await place.attempts(model), 1);
  }),

  check("an allowed tool call arrives intact", async (place) => {
    for (const found of await bothWays(place, "tool-safe")) {
      assert.deepEqual(found, { text: "Let me look.", calls: [safe(place)], finish: "tool_calls" });
    }
  }),

  check("a refused tool call becomes text", async (place) => {
    for (const { text, calls, finish } of await bothWays(place, "tool-drop")) {
      holds(text, REASON);
      assert.deepEqual({ calls, finish }, { calls: [], finish: "stop" });
    }
  }, governed),

  check("of three tool calls only the refused one is missing", async (place) => {
    for (const { text, calls, finish } of await bothWays(place, "tool-both")) {
      holds(text, REASON);
      assert.deepEqual({ calls, finish }, { calls: [safe(place), safe(place)], finish: "tool_calls" });
    }
  }, governed),

  check("the stream helper shows the refusal", async (place) => {
    const model = place.model("tool-drop");
    const helper = client(place).chat.completions.stream({ model, messages, tools: CHAT_TOOLS });
    const { text, calls } = await whole(helper.finalChatCompletion());
    holds(text, REASON);
    assert.deepEqual(calls, []);
  }, governed),

  check("a refused tool call raises", async (place) => {
    let model = place.model("tool-drop");
    let error = await raised(OpenAI.PermissionDeniedError, "policy_denied", () => chat(place, model));
    holds(error.message, REASON);
    assert.equal(await place.attempts(model), 1);
    model = place.model("tool-drop");
    error = await raised(OpenAI.APIError, "policy_denied", async () => all(await chat(place, model, { stream: true })));
    holds(error.message, REASON);
    assert.equal(await place.attempts(model), 1);
  }, raises),

  check("embeddings arrive", async (place) => {
    const model = place.model("text");
    const { data, usage } = await client(place).embeddings.create({ model, input: ["one", "two"] });
    assert.deepEqual(data.map(({ embedding }) => embedding), [[0.25, -1.5, 3], [0.25, -1.5, 3]]);
    assert.deepEqual([usage.prompt_tokens, await place.attempts(model)], [11, 1]);
  }),

  check("responses answer whole and streamed", async (place) => {
    const answer = await respond(place, place.model("text"));
    assert.deepEqual([answer.output_text, answer.usage.input_tokens], ["Hello from the fake.", 11]);
    const model = place.model("slow");
    let text = "";
    let last;
    for await (const event of await respond(place, model, { stream: true })) {
      if (event.type === "response.output_text.delta") {
        if (text === "") await place.go(model);
        text += event.delta;
      }
      last = event;
    }
    assert.deepEqual([text, last.type, last.response.usage.output_tokens], ["One two three.", "response.completed", 7]);
  }),

  check("responses keep an allowed tool call intact", async (place) => {
    const wanted = { text: "Let me look.", calls: [safe(place)] };
    assert.deepEqual(items(await respond(place, place.model("tool-safe"))), wanted);
    const events = await all(await respond(place, place.model("tool-safe"), { stream: true }));
    const pieces = events.filter(({ type }) => type === "response.function_call_arguments.delta");
    assert.equal(pieces.map(({ delta }) => delta).join(""), place.arguments);
    assert.deepEqual(items(events.at(-1).response), wanted);
  }),

  check("responses replace a refused tool call", async (place) => {
    const model = place.model("tool-drop");
    const helper = client(place).responses.stream({ model, input: "hello", tools: RESPONSE_TOOLS });
    for (const response of [await respond(place, place.model("tool-drop")), await helper.finalResponse()]) {
      const { text, calls } = items(response);
      holds(text, REASON);
      assert.deepEqual(calls, []);
    }
  }, governed),

  check("responses raise a refused tool call", async (place) => {
    await raised(OpenAI.PermissionDeniedError, "policy_denied", () => respond(place, place.model("tool-drop")));
    const model = place.model("tool-drop");
    const stream = async () => all(await respond(place, model, { stream: true }));
    holds((await raised(OpenAI.APIError, "policy_denied", stream)).message, REASON);
    assert.equal(await place.attempts(model), 1);
  }, raises),

  check("a denied model raises permission denied", async (place) => {
    const calls = [
      (model) => chat(place, model),
      (model) => chat(place, model, { stream: true }),
      (model) => respond(place, model),
      (model) => client(place).embeddings.create({ model, input: "one" }),
    ];
    for (const call of calls) {
      const model = place.model("denied");
      const error = await raised(OpenAI.PermissionDeniedError, "policy_denied", () => call(model));
      holds(error.message, "This model is not approved");
      assert.equal(error.headers.get("x-should-retry"), "false");
      assert.equal(await place.attempts(model), 0);
    }
  }, governed),

  check("a used up budget raises 402", async (place) => {
    const model = place.model("poor");
    const error = await raised(OpenAI.APIError, "budget_exhausted", () => chat(place, model));
    assert.deepEqual([error.status, await place.attempts(model)], [402, 0]);
  }, governed),

  check("a hurry raises rate limit error", async (place) => {
    // Retries are switched off: within a minute the SDK would rightly wait and try again.
    const hasty = client(place, { maxRetries: 0 });
    const [first, second] = [place.model("hurried"), place.model("hurried")];
    // The first may be refused too: an earlier check may have had the one call of these 30 seconds.
    await hasty.chat.completions.create({ model: first, messages }).catch((error) => assert.equal(error.status, 429));
    const again = () => hasty.chat.completions.create({ model: second, messages });
    await raised(OpenAI.RateLimitError, "rate_limited", again);
    assert.equal(await place.attempts(second), 0);
  }, governed),

  check("a tripped breaker raises 503", async (place) => {
    const model = place.model("error500");
    const ask = () => client(place, { maxRetries: 0 }).chat.completions.create({ model, messages });
    for (let failure = 0; failure < 3; failure += 1) {
      assert.equal((await raised(OpenAI.InternalServerError, undefined, ask)).status, 500);
    }
    const error = await raised(OpenAI.InternalServerError, "breaker_tripped", ask);
    assert.deepEqual([error.status, await place.attempts(model)], [503, 3]);
  }, governed),
];
