// SPDX-License-Identifier: Apache-2.0
// clients.mjs CASE URL: what an MCP client package sees, as JSON. Two agents of one workflow, a and b, talk.
import { Client as OldClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as OldTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { Client as NewClient, StreamableHTTPClientTransport as NewTransport } from "@modelcontextprotocol/client";

const [, , name, url] = process.argv;
const workflow = `node-${name}-${process.pid}`;

async function connect(agent, options) {
  const headers = { "X-Workflow-ID": workflow, "X-Agent-ID": agent };
  const [Client, Transport] = options ? [NewClient, NewTransport] : [OldClient, OldTransport];
  const client = new Client({ name: agent, version: "1" }, options);
  await client.connect(new Transport(new URL(url), { requestInit: { headers } }));
  return client;
}

const call = (client, tool, args = {}, options) =>
  options && client instanceof OldClient
    ? client.callTool({ name: tool, arguments: args }, undefined, options)
    : client.callTool({ name: tool, arguments: args }, options);

// b waits, a sends, b gets it and answers, a sees who there is.
async function exchange(options) {
  const [a, b] = [await connect("a", options), await connect("b", options)];
  const waiting = call(b, "receive_messages", { wait: 20 });
  const sent = await call(a, "send_message", { target_agent: "b", payload: { question: "π?", digits: [3, 1, 4] } });
  const got = await waiting;
  const m = got.structuredContent.messages[0];
  await call(b, "send_message", { target_agent: m.source_agent, payload: "3.14", correlation_id: m.message_id });
  const answer = await call(a, "receive_messages", { wait: 20 });
  const agents = await call(a, "list_agents");
  const status = await call(a, "workflow_status");
  const failed = await call(a, "send_message", { target_agent: "b" });
  const tools = await a.listTools();
  const out = {
    version: a.getNegotiatedProtocolVersion?.(),
    server: a.getServerVersion(),
    tools: tools.tools.map((t) => t.name),
    sent: sent.structuredContent,
    got: got.structuredContent,
    text: JSON.parse(got.content[0].text),
    answer: answer.structuredContent.messages[0],
    agents: agents.structuredContent.agents.map((x) => x.agent_id).sort(),
    status: status.structuredContent,
    failed: { isError: failed.isError, ...JSON.parse(failed.content[0].text).error },
  };
  await a.close();
  await b.close();
  return out;
}

// A call that is given up must not take a message with it.
async function cancel(options) {
  const b = await connect("b", options);
  const stop = new AbortController();
  const waiting = call(b, "receive_messages", { wait: 20 }, { signal: stop.signal }).then(
    () => "answered",
    (e) => e.name,
  );
  process.stdout.write("parked\n");
  await new Promise((done) => process.stdin.once("data", done)); // the test has seen it wait
  stop.abort(new Error("enough"));
  const end = await waiting;
  process.stdout.write("stopped\n");
  await new Promise((done) => process.stdin.once("data", done)); // the test has sent a message
  const got = await call(b, "receive_messages", { wait: 20 });
  await b.close();
  return { end, got: got.structuredContent };
}

const modern = { versionNegotiation: { mode: { pin: "2026-07-28" } } };
const cases = {
  sdk: () => exchange(),
  modern: () => exchange(modern),
  auto: () => exchange({ versionNegotiation: { mode: "auto" } }),
  legacy: () => exchange({ versionNegotiation: { mode: "legacy" } }),
  cancel_sdk: () => cancel(),
  cancel_modern: () => cancel(modern),
};

console.log(JSON.stringify({ workflow, ...(await cases[name]()) }));
process.exit(0);
