// SPDX-License-Identifier: Apache-2.0
// Two agents of one workflow with the openai package for Node: a planner streams a plan and hands it over, a writer waits for it
// and continues.
//
//     npm install openai
//     BASE_URL=http://127.0.0.1:8080 node openai_node.mjs
import { randomUUID } from "node:crypto";
import OpenAI from "openai";

const base = process.env.BASE_URL ?? "http://127.0.0.1:8080";
const apiKey = process.env.API_KEY ?? "none";
const workflow = `trip-${randomUUID().slice(0, 8)}`;
const briefing = { role: "system", content: "We plan a trip to the moon. Be brief. ".repeat(40) };

const agent = (name) =>
  new OpenAI({ baseURL: `${base}/v1`, apiKey, defaultHeaders: { "X-Workflow-ID": workflow, "X-Agent-ID": name } });

async function call(path, body) {
  const answer = await fetch(`${base}/v1/workflows/${workflow}${path}`, {
    method: body ? "POST" : "GET",
    headers: { Authorization: `Bearer ${apiKey}`, "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

const planner = agent("planner");
const writer = agent("writer");
const model = process.env.MODEL ?? (await planner.models.list()).data[0].id;

let plan = "";
const stream = await planner.chat.completions.create({
  model, stream: true, max_tokens: 32, messages: [briefing, { role: "user", content: "Make a plan." }],
});
for await (const chunk of stream) plan += chunk.choices[0]?.delta?.content ?? "";
console.error("planner:", plan);
await call("/messages", { source_agent: "planner", target_agent: "writer", message_type: "plan", payload: { plan } });

const { messages } = await call("/agents/writer/messages?wait=10");
const answer = await writer.chat.completions.create({
  model, max_tokens: 32,
  messages: [briefing, { role: "user", content: `Write the first chapter of: ${messages[0].payload.plan}` }],
});
console.error("writer:", answer.choices[0].message.content);

console.log(JSON.stringify(await call("/status")));
