"""A provider of WebSocket sessions and its client, with `websockets`.

`ws_peer.py serve` listens on loopback and says where. `ws_peer.py call URL` has the sessions that it reads as JSON
lines, one after the other, and reports what each turn was answered. The sessions are those of OpenAI's Realtime API
(`realtime`) and of Gemini Live (`live`); the text of a turn orders the counts of its answer."""
import asyncio, json, sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

LIVE = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
WORD = "w\u00f6rd "


def parts(text, size):
    """The text as the fragments of one message."""
    return [text[at:at + size] for at in range(0, len(text), size)]


class Server:
    def __init__(self, socket):
        self.socket, self.event = socket, 0

    async def say(self, kind, **more):
        self.event += 1
        text = json.dumps({"type": kind, "event_id": f"event_{self.event}", **more}, ensure_ascii=False)
        # Every third message in fragments, and something of the protocol's own between them.
        await self.socket.send(parts(text, 50) if self.event % 3 == 0 else text)
        if self.event % 5 == 0:
            await (await self.socket.ping())

    async def realtime(self):
        model = self.socket.request.path.split("model=")[1] + "-2025-08-28"
        session = {"type": "realtime", "object": "realtime.session", "id": "sess_1", "model": model}
        await self.say("session.created", session=session)
        asked, number = None, 0
        async for text in self.socket:
            message = json.loads(text)
            if message["type"] == "session.update":
                await self.say("session.updated", session={**session, **message["session"], "model": model})
            elif message["type"] == "conversation.item.create":
                asked = json.loads(message["item"]["content"][0]["text"])
                await self.say("conversation.item.added", item=message["item"])
            elif message["type"] == "response.create":
                number += 1
                response = {"object": "realtime.response", "id": f"resp_{number}", "status": "in_progress",
                            "output": [], "usage": None}
                await self.say("response.created", response=response)
                for word in range(asked["words"]):
                    await self.say("response.output_text.delta", response_id=response["id"], delta=f"{WORD}{word}")
                usage = {
                    "total_tokens": asked["input"] + asked["output"], "input_tokens": asked["input"],
                    "output_tokens": asked["output"],
                    "input_token_details": {"text_tokens": asked["input"] - asked["audio"], "image_tokens": 0,
                                            "audio_tokens": asked["audio"], "cached_tokens": asked["cached"],
                                            "cached_tokens_details": {"text_tokens": asked["cached"],
                                                                      "audio_tokens": 0, "image_tokens": 0}},
                    "output_token_details": {"text_tokens": asked["output"] - asked["audio"] // 2,
                                             "audio_tokens": asked["audio"] // 2},
                }
                content = [{"type": "output_text", "text": WORD * asked["words"]}]
                output = [{"type": "message", "role": "assistant", "status": "completed", "content": content}]
                done = {**response, "status": "completed", "output": output, "usage": usage}
                await self.say("response.done", response=done)

    async def live(self):
        send = lambda message: self.socket.send(json.dumps(message, ensure_ascii=False).encode())
        async for data in self.socket:
            message = json.loads(data)
            if "setup" in message:
                await send({"setupComplete": {"sessionId": "s"}})
                continue
            asked = json.loads(message["clientContent"]["turns"][0]["parts"][0]["text"])
            for word in range(asked["words"]):
                await send({"serverContent": {"modelTurn": {"role": "model", "parts": [{"text": f"{WORD}{word}"}]}}})
            await send({"serverContent": {"generationComplete": True}})
            count = lambda kind, tokens: {"modality": kind, "tokenCount": tokens}
            usage = {
                "promptTokenCount": asked["input"], "cachedContentTokenCount": asked["cached"],
                "responseTokenCount": asked["output"], "totalTokenCount": asked["input"] + asked["output"],
                "promptTokensDetails": [count("TEXT", asked["input"] - asked["audio"]), count("AUDIO", asked["audio"])],
                "responseTokensDetails": [count("TEXT", asked["output"] - asked["audio"] // 2),
                                          count("AUDIO", asked["audio"] // 2)],
            }
            await send({"serverContent": {"turnComplete": True}, "usageMetadata": usage})


async def answer(socket):
    server = Server(socket)
    await (server.live() if socket.request.path.startswith(LIVE) else server.realtime())


async def run_server():
    async with serve(answer, "127.0.0.1", 0, max_size=None) as server:
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        await asyncio.Event().wait()


def report(**said):
    print(json.dumps(said), flush=True)


async def realtime(base, session, options):
    path = f"/v1/realtime?model={session['model']}"
    headers = {"Authorization": "Bearer sk-lab-0123456789abcdef"}
    async with connect(base + path, additional_headers=headers, **options) as socket:
        model = json.loads(await socket.recv())["session"]["model"]
        await socket.send(json.dumps({"type": "session.update", "session": {"instructions": WORD * 200}}))
        for turn in session["turns"]:
            content = [{"type": "input_text", "text": json.dumps(turn)}]
            item = {"type": "message", "role": "user", "content": content}
            await socket.send(parts(json.dumps({"type": "conversation.item.create", "item": item}), 70))
            await socket.send(json.dumps({"type": "response.create"}))
            async for text in socket:
                message = json.loads(text)
                if message["type"] == "response.done":
                    usage = message["response"]["usage"]
                    details = usage["input_token_details"]
                    report(model=model, input=usage["input_tokens"], output=usage["output_tokens"],
                           cached=details["cached_tokens"], audio_input=details["audio_tokens"],
                           audio_output=usage["output_token_details"]["audio_tokens"])
                    break


async def live(base, session, options):
    async with connect(f"{base}{LIVE}?key=AIzaLab0123456789", **options) as socket:
        await socket.send(json.dumps({"setup": {"model": session["model"]}}))
        await socket.recv()
        for turn in session["turns"]:
            asked = {"turns": [{"role": "user", "parts": [{"text": json.dumps(turn)}]}], "turnComplete": True}
            await socket.send(json.dumps({"clientContent": asked}))
            async for data in socket:
                message = json.loads(data)
                if "usageMetadata" in message:
                    usage = message["usageMetadata"]
                    audio = lambda name: next(
                        (part["tokenCount"] for part in usage[name] if part["modality"] == "AUDIO"), 0)
                    # Which model answers, this API does not say.
                    report(input=usage["promptTokenCount"], output=usage["responseTokenCount"],
                           cached=usage["cachedContentTokenCount"], audio_input=audio("promptTokensDetails"),
                           audio_output=audio("responseTokensDetails"))
                    break


async def run_client(base):
    for session in [json.loads(line) for line in sys.stdin if line.strip()]:
        options = {"compression": session["compression"], "max_size": None}
        await {"realtime": realtime, "live": live}[session["api"]](base, session, options)


asyncio.run(run_server() if sys.argv[1] == "serve" else run_client(sys.argv[2]))
