// SPDX-License-Identifier: Apache-2.0
// The official Node SDKs against a running gateway: node clients.mjs CASE BASE_URL. Prints one JSON object; exits 0 when the case ran.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const [name, origin] = process.argv.slice(2);
const hello = [{ role: "user", content: "hello" }];
const openai = (more) => new OpenAI({ baseURL: `${origin}/v1`, apiKey: "sk-test", maxRetries: 0, timeout: 20000, ...more });
const anthropic = (more) => new Anthropic({ baseURL: origin, apiKey: "sk-test", maxRetries: 0, timeout: 20000, ...more });
const tools = [{
  type: "function",
  function: { name: "get_weather", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } },
}];
const describe = (e) => ({
  class: e.constructor.name, status: e.status, code: e.code, type: e.type, param: e.param, message: e.message, requestID: e.requestID,
});

const cases = {
  async chat() {
    const a = await openai().chat.completions.create({ model: "sim", messages: hello, max_tokens: 8 });
    return { text: a.choices[0].message.content, usage: a.usage };
  },
  async stream() {
    let text = "";
    let events = 0;
    for await (const p of await openai().chat.completions.create({ model: "sim", messages: hello, max_tokens: 8, stream: true })) {
      text += p.choices[0]?.delta?.content ?? "";
      events++;
    }
    return { text, events };
  },
  async tools() {
    const a = await openai().chat.completions.create({
      model: "sim", messages: hello, tools, tool_choice: { type: "function", function: { name: "get_weather" } },
    });
    const call = a.choices[0].message.tool_calls[0].function;
    return { name: call.name, arguments: JSON.parse(call.arguments) };
  },
  async unknown_model() {
    return openai().chat.completions.create({ model: "nobody", messages: hello }).then(() => ({}), describe);
  },
  async bad_metadata() {
    return openai().chat.completions.create({ model: "sim", messages: hello, workflow_metadata: { workflow_id: 7 } }).then(() => ({}), describe);
  },
  async headers() {
    const { data, response } = await openai().chat.completions.create(
      { model: "sim", messages: hello, max_tokens: 4 }, { headers: { "X-Workflow-ID": "node" } }).withResponse();
    return { engine: response.headers.get("x-slipstream-engine"), receipt: response.headers.get("x-slipstream-decision"), id: data._request_id };
  },
  async embeddings() {
    const a = await openai().embeddings.create({ model: "sim", input: ["one", "two"] });
    return { lengths: a.data.map((d) => d.embedding.length) };
  },
  async models() {
    const ids = [];
    for await (const m of await openai().models.list()) ids.push(m.id);
    return { ids };
  },
  async abort() {
    const controller = new AbortController();
    const stream = await openai().chat.completions.create(
      { model: "sim", messages: hello, max_tokens: 20000, stream: true, ignore_eos: true }, { signal: controller.signal });
    let events = 0;
    for await (const _ of stream) {
      if (++events === 3) controller.abort();
    }
    return { events };
  },
  async retry() {
    const a = await openai({ maxRetries: 2 }).chat.completions.create({ model: "raw", messages: hello });
    return { text: a.choices[0].message.content };
  },
  async dies_in_stream() {
    let events = 0;
    try {
      for await (const _ of await openai().chat.completions.create({ model: "raw", messages: hello, stream: true })) events++;
    } catch (e) {
      return { events, error: describe(e) };
    }
    return { events };
  },
  async message() {
    const m = await anthropic().messages.create({ model: "sim", max_tokens: 8, messages: hello });
    return { text: m.content[0].text, usage: m.usage };
  },
  async message_stream() {
    const stream = anthropic().messages.stream({ model: "sim", max_tokens: 8, messages: hello });
    const m = await stream.finalMessage();
    return { text: m.content[0].text };
  },
  async message_unknown_model() {
    return anthropic().messages.create({ model: "nobody", max_tokens: 8, messages: hello }).then(() => ({}), (e) => ({ ...describe(e), body: e.error }));
  },
};

console.log(JSON.stringify(await cases[name]()));
