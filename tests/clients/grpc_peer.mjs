// Vertex AI and the Gemini API over gRPC with Node's own HTTP/2 and TLS: server and client with `@grpc/grpc-js`,
// messages and methods from Google's own definitions. `grpc_peer.mjs serve` listens on loopback and says where;
// `grpc_peer.mjs call API TARGET` makes the calls that it reads as JSON lines, with TLS if the target is no address on
// loopback, and reports what each was answered. The text of a call orders the counts of its answer. This server never
// compresses; it reads what is.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(process.env.LAB_NODE_MODULES + "/index.js");
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");
const { getProtoPath } = require("google-proto-files");

const definitions = (file) =>
  grpc.loadPackageDefinition(loadSync(file, { includeDirs: [getProtoPath("..")], longs: Number, defaults: true })).google;
const SERVICES = {
  gemini: definitions("google/ai/generativelanguage/v1beta/generative_service.proto").ai.generativelanguage.v1beta.GenerativeService,
  vertex: definitions("google/cloud/aiplatform/v1/prediction_service.proto").cloud.aiplatform.v1.PredictionService,
};
const MODELS = { gemini: "models/", vertex: "projects/p/locations/us-central1/publishers/google/models/" };
const CODINGS = { gzip: grpc.compressionAlgorithms.gzip, null: grpc.compressionAlgorithms.identity };

// What a call is answered, in pieces; only the last has the usage.
function pieces(request) {
  const asked = JSON.parse(request.contents[0].parts[0].text);
  const modelVersion = request.model.split("/").at(-1) + "-001";
  return Array.from({ length: asked.words }, (_, word) => {
    const last = word + 1 === asked.words;
    const usageMetadata = {
      promptTokenCount: asked.input, candidatesTokenCount: asked.output, cachedContentTokenCount: asked.cached,
      totalTokenCount: asked.input + asked.output,
    };
    return {
      candidates: [{ content: { role: "model", parts: [{ text: `w\u00f6rd ${word} ` }] }, ...(last ? { finishReason: "STOP" } : {}) }],
      modelVersion,
      ...(last ? { usageMetadata } : {}),
    };
  });
}

function failure({ request }) {
  const { error } = JSON.parse(request.contents[0].parts[0].text);
  return error ? { code: grpc.status[error], details: "as ordered" } : null;
}

function whole(call, done) {
  const all = pieces(call.request);
  const last = all.at(-1);
  last.candidates[0].content.parts = all.map((piece) => piece.candidates[0].content.parts[0]);
  done(failure(call), last);
}

async function stream(call) {
  const error = failure(call);
  if (error) return call.emit("error", error);
  for (const piece of pieces(call.request)) {
    call.write(piece);
    await new Promise((done) => setImmediate(done));
  }
  call.end();
}

function serve() {
  const server = new grpc.Server();
  for (const { service } of Object.values(SERVICES)) {
    server.addService(service, { generateContent: whole, streamGenerateContent: stream });
  }
  server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    console.log(JSON.stringify({ port }));
  });
}

function once(client, api, call) {
  const request = {
    model: MODELS[api] + call.model,
    contents: [{ role: "user", parts: [{ text: JSON.stringify(call) }] }],
  };
  return new Promise((done) => {
    let answer;
    const failed = (error) => done({ error: grpc.status[error.code] });
    const ended = () => done({
      model: answer.modelVersion, input: answer.usageMetadata.promptTokenCount,
      output: answer.usageMetadata.candidatesTokenCount, cached: answer.usageMetadata.cachedContentTokenCount,
    });
    if (call.stream) {
      const pieces = client.streamGenerateContent(request);
      pieces.on("data", (piece) => (answer = piece)).on("end", () => answer && ended()).on("error", failed);
    } else {
      client.generateContent(request, (error, whole) => {
        answer = whole;
        error ? failed(error) : ended();
      });
    }
  });
}

async function call(api, target) {
  const calls = readFileSync(0, "utf8").split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
  const credentials = target.startsWith("127.0.0.1:") ? grpc.credentials.createInsecure() : grpc.credentials.createSsl();
  for (const coding of [null, "gzip"]) {
    const client = new SERVICES[api](target, credentials, { "grpc.default_compression_algorithm": CODINGS[coding] });
    // All at once on one connection.
    const said = await Promise.all(calls.filter((call) => call.coding === coding).map((call) => once(client, api, call)));
    said.forEach((one) => console.log(JSON.stringify(one)));
    client.close();
  }
}

process.argv[2] === "serve" ? serve() : await call(process.argv[3], process.argv[4]);
