"""The Gemini API over gRPC: a server with `grpcio`, and Google's own client for Python.

`grpc_peer.py serve` listens on loopback and says where. `grpc_peer.py call TARGET` makes the calls that it reads as
JSON lines, with TLS if the target is no address on loopback, and reports what each was answered. The text of a call
orders the counts of its answer."""
import concurrent.futures, json, sys

import grpc
from google.ai import generativelanguage_v1beta as gemini
from google.ai.generativelanguage_v1beta.services.generative_service.transports import GenerativeServiceGrpcTransport

SERVICE = "google.ai.generativelanguage.v1beta.GenerativeService"
GZIP = {"gzip": grpc.Compression.Gzip, None: grpc.Compression.NoCompression}


def answers(request, context):
    """What the call is answered, in pieces; each has the usage so far, as Google's have."""
    asked = json.loads(request.contents[0].parts[0].text)
    context.set_compression(GZIP[asked["coding"]])
    if asked["error"]:
        context.abort(grpc.StatusCode[asked["error"]], "as ordered")
    words = asked["words"]
    for word in range(words):
        last = word + 1 == words
        output = asked["output"] if last else min(word + 1, asked["output"])
        yield gemini.GenerateContentResponse(
            candidates=[gemini.Candidate(
                content=gemini.Content(role="model", parts=[gemini.Part(text=f"w\u00f6rd {word} ")]),
                finish_reason=gemini.Candidate.FinishReason.STOP if last else 0,
            )],
            usage_metadata=gemini.GenerateContentResponse.UsageMetadata(
                prompt_token_count=asked["input"], candidates_token_count=output,
                cached_content_token_count=asked["cached"], total_token_count=asked["input"] + output),
            model_version=request.model.removeprefix("models/") + "-001",
        )


def whole(request, context):
    pieces = list(answers(request, context))
    text = "".join(piece.candidates[0].content.parts[0].text for piece in pieces)
    pieces[-1].candidates[0].content.parts[0].text = text
    return pieces[-1]


def serve():
    kinds = {"request_deserializer": gemini.GenerateContentRequest.deserialize,
             "response_serializer": gemini.GenerateContentResponse.serialize}
    handlers = {"GenerateContent": grpc.unary_unary_rpc_method_handler(whole, **kinds),
                "StreamGenerateContent": grpc.unary_stream_rpc_method_handler(answers, **kinds)}
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"port": port}), flush=True)
    server.wait_for_termination()


def one(client, call):
    part = gemini.Part(text=json.dumps(call))
    request = gemini.GenerateContentRequest(
        model=f"models/{call['model']}", contents=[gemini.Content(role="user", parts=[part])])
    try:
        if call["stream"]:
            answer = list(client.stream_generate_content(request, retry=None))[-1]
        else:
            answer = client.generate_content(request, retry=None)
    except Exception as error:
        return {"error": error.grpc_status_code.name}
    usage = answer.usage_metadata
    return {"model": answer.model_version, "input": usage.prompt_token_count, "output": usage.candidates_token_count,
            "cached": usage.cached_content_token_count}


def call(target):
    calls = [json.loads(line) for line in sys.stdin if line.strip()]
    for coding in [None, "gzip"]:
        if target.startswith("127.0.0.1:"):
            channel = grpc.insecure_channel(target, compression=GZIP[coding])
        else:
            channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(), compression=GZIP[coding])
        client = gemini.GenerativeServiceClient(transport=GenerativeServiceGrpcTransport(channel=channel))
        # All at once on one connection.
        with channel, concurrent.futures.ThreadPoolExecutor(8) as pool:
            for said in pool.map(lambda one_call: one(client, one_call), [c for c in calls if c["coding"] == coding]):
                print(json.dumps(said), flush=True)


serve() if sys.argv[1] == "serve" else call(sys.argv[2])
