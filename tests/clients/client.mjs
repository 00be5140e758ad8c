// Real Node clients. Reads calls as JSON lines, makes them, reports each as a JSON line.
import { readFileSync } from "node:fs";
import { connect } from "node:http2";
import { createRequire } from "node:module";
import { join } from "node:path";

const base = process.env.LAB_OPENAI_BASE ?? "https://api.openai.com/v1";
const anthropic = process.env.LAB_ANTHROPIC_BASE ?? "https://api.anthropic.com";
const key = process.env.LAB_KEY ?? "sk-lab-0123456789abcdef";
const mode = process.argv[2];
const calls = readFileSync(0, "utf8").split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));

function body(call) {
  const prompt = (call.padding ? "x".repeat(call.padding) + " " : "") + call.order;
  if (call.api === "responses") return { model: call.model, input: prompt, stream: call.stream };
  const messages = [{ role: "user", content: prompt }];
  if (call.api === "messages") return { model: call.model, max_tokens: 64, messages, stream: call.stream };
  const options = call.stream && call.include_usage ? { stream_options: { include_usage: true } } : {};
  return { model: call.model, messages, stream: call.stream, ...options };
}

async function viaSdk() {
  const require = createRequire(join(process.env.LAB_NODE_MODULES, "package.json"));
  const OpenAI = require("openai").default ?? require("openai");
  // The SDK's own hook for what it sends and gets: the sizes of both bodies.
  let sent, received;
  const counting = async (url, init) => {
    sent = Buffer.byteLength(init.body);
    const answer = await fetch(url, init);
    received = answer.clone().arrayBuffer().then((body) => body.byteLength);
    return answer;
  };
  const client = new OpenAI({ apiKey: key, baseURL: base, maxRetries: 0, fetch: counting });
  return async (call) => {
    const resource = call.api === "responses" ? client.responses : client.chat.completions;
    const answer = await resource.create(body(call));
    let events = 1;
    if (call.stream) {
      events = 0;
      for await (const _ of answer) events += 1;
    }
    return { events, sent, received: await received };
  };
}

function viaFetch() {
  return async (call) => {
    const path = { chat: base + "/chat/completions", responses: base + "/responses", messages: anthropic + "/v1/messages" }[call.api];
    const headers = { "content-type": "application/json", authorization: "Bearer " + key };
    const text = JSON.stringify(body(call));
    const answer = await fetch(path, { method: "POST", headers, body: text });
    const received = (await answer.arrayBuffer()).byteLength;
    return { status: answer.status, sent: Buffer.byteLength(text), received };
  };
}

// One session per provider, a stream per call.
const sessions = new Map();

function viaHttp2() {
  return async (call) => {
    const url = new URL({ chat: base + "/chat/completions", responses: base + "/responses", messages: anthropic + "/v1/messages" }[call.api]);
    if (!sessions.has(url.origin)) sessions.set(url.origin, connect(url.origin));
    const headers = { ":method": "POST", ":path": url.pathname, "content-type": "application/json", authorization: "Bearer " + key };
    const stream = sessions.get(url.origin).request(headers);
    let [status, received] = [0, 0];
    const sent = Buffer.from(JSON.stringify(body(call)));
    stream.on("response", (head) => (status = head[":status"]));
    stream.end(sent);
    for await (const piece of stream) received += piece.length;
    return { status, sent: sent.length, received };
  };
}

const make = { openai: viaSdk, fetch: viaFetch, http2: viaHttp2 }[mode];
const once = await make();
for (const call of calls) {
  const started = performance.now();
  try {
    const more = await once(call);
    console.log(JSON.stringify({ ok: true, order: call.order, ms: performance.now() - started, ...more }));
  } catch (error) {
    console.log(JSON.stringify({ ok: false, order: call.order, error: String(error) }));
  }
}
for (const session of sessions.values()) session.close();
