// A provider and its clients without TLS, in Node: `peer.mjs serve` listens with http and http2 and says where;
// `peer.mjs http1|http2 PORT` makes the calls it reads as JSON lines, and reports what each was answered.
import http from "node:http";
import http2 from "node:http2";
import zlib from "node:zlib";
import { readFileSync } from "node:fs";

const { PADDING_STRATEGY_MAX } = http2.constants;
const compress = { gzip: zlib.createGzip, deflate: zlib.createDeflate, br: zlib.createBrotliCompress };
const decompress = { gzip: zlib.createGunzip, deflate: zlib.createInflate, br: zlib.createBrotliDecompress };

function usage({ input, output, cached }) {
  return {
    prompt_tokens: input, completion_tokens: output, total_tokens: input + output,
    prompt_tokens_details: { cached_tokens: cached }, completion_tokens_details: { reasoning_tokens: 0 },
  };
}

function* parts(asked) {
  const model = asked.model + "-2024-08-06";
  if (!asked.stream) {
    const message = { role: "assistant", content: "w\u00f6rd ".repeat(asked.words) };
    yield JSON.stringify({ id: "c", object: "chat.completion", model, choices: [{ index: 0, message, finish_reason: "stop" }], usage: usage(asked) });
    return;
  }
  const event = (choices, usage) => `data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", model, choices, usage })}\n\n`;
  for (let word = 0; word < asked.words; word += 1) {
    yield event([{ index: 0, delta: { content: `w\u00f6rd ${word}` }, finish_reason: null }], null);
  }
  yield event([{ index: 0, delta: {}, finish_reason: "stop" }], null);
  yield event([], usage(asked));
  yield "data: [DONE]\n\n";
}

async function answer(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const asked = JSON.parse(Buffer.concat(chunks).toString());
  if (asked.hints) response.writeEarlyHints({ link: "</style.css>; rel=preload" });
  response.statusCode = asked.status;
  response.setHeader("content-type", asked.stream ? "text/event-stream" : "application/json");
  response.setHeader("x-request-id", `req_${asked.input}`);
  if (asked.trailers) {
    if (response.httpVersionMajor !== 2) response.setHeader("trailer", "x-checksum");
    response.addTrailers({ "x-checksum": "0123456789abcdef" });
  }
  const pieces = [...parts(asked)];
  if (!asked.coding && !asked.stream && !asked.trailers) {
    response.setHeader("content-length", Buffer.byteLength(pieces[0]));
  }
  let out = response;
  if (asked.coding) {
    response.setHeader("content-encoding", asked.coding);
    out = compress[asked.coding]();
    out.pipe(response);
  }
  for (const piece of pieces) {
    out.write(piece);
    // What was written so far goes out now, as a provider's stream does.
    if (asked.coding && asked.stream) await new Promise((done) => out.flush(done));
    else await new Promise((done) => setImmediate(done));
  }
  out.end();
}

function report(call, status, coding, body) {
  let input, output, cached, model;
  for (const text of body.includes("data: ") ? body.split("\n").filter((line) => line.startsWith("data: {")).map((line) => line.slice(6)) : [body]) {
    const said = JSON.parse(text);
    model = said.model;
    if (said.usage) {
      input = said.usage.prompt_tokens;
      output = said.usage.completion_tokens;
      cached = said.usage.prompt_tokens_details.cached_tokens;
    }
  }
  console.log(JSON.stringify({ number: call.input, status, coding: coding ?? null, model, input, output, cached, bytes: Buffer.byteLength(body) }));
}

async function text(stream, coding) {
  const plain = coding ? stream.pipe(decompress[coding]()) : stream;
  const chunks = [];
  for await (const chunk of plain) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

const path = "/v1/chat/completions";
const headers = (call) => ({ "content-type": "application/json", authorization: "Bearer sk-lab-0123456789abcdef", ...(call.accept ? { "accept-encoding": call.accept } : {}) });

async function viaHttp1(port, calls) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  for (const call of calls) {
    const body = JSON.stringify(call);
    const expect = call.expect ? { expect: "100-continue" } : {};
    const length = call.chunked ? { "transfer-encoding": "chunked" } : { "content-length": Buffer.byteLength(body) };
    const request = http.request({ host: "127.0.0.1", port, path, method: "POST", agent, headers: { host: "api.openai.com", ...headers(call), ...expect, ...length } });
    const response = new Promise((done, failed) => request.on("response", done).on("error", failed));
    if (call.expect) {
      request.flushHeaders();
      await new Promise((done) => request.on("continue", done));
    }
    for (let at = 0; at < body.length; at += 50) request.write(body.slice(at, at + 50));
    request.end();
    const answered = await response;
    report(call, answered.statusCode, answered.headers["content-encoding"], await text(answered, answered.headers["content-encoding"]));
  }
  agent.destroy();
}

async function viaHttp2(port, calls) {
  const session = http2.connect(`http://127.0.0.1:${port}`, { paddingStrategy: PADDING_STRATEGY_MAX, settings: { enablePush: false } });
  // All at once on one connection.
  await Promise.all(calls.map(async (call) => {
    const stream = session.request({ ":method": "POST", ":path": path, ":authority": "api.openai.com", ...headers(call) });
    const head = new Promise((done, failed) => stream.on("response", done).on("error", failed));
    stream.end(JSON.stringify(call));
    const answered = await head;
    report(call, answered[":status"], answered["content-encoding"], await text(stream, answered["content-encoding"]));
  }));
  session.close();
}

if (process.argv[2] === "serve") {
  const one = http.createServer(answer);
  const two = http2.createServer({ paddingStrategy: PADDING_STRATEGY_MAX, settings: { headerTableSize: 256, maxFrameSize: 20000 } }, answer);
  one.listen(0, "127.0.0.1", () => two.listen(0, "127.0.0.1", () => {
    console.log(JSON.stringify({ http1: one.address().port, http2: two.address().port }));
  }));
} else {
  const calls = readFileSync(0, "utf8").split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
  await (process.argv[2] === "http2" ? viaHttp2 : viaHttp1)(Number(process.argv[3]), calls);
}
