"""Real Python clients. Reads calls as JSON lines, makes them, reports each as a JSON line."""

import asyncio
import json
import os
import sys
import time

OPENAI = os.environ.get("LAB_OPENAI_BASE", "https://api.openai.com/v1")
ANTHROPIC = os.environ.get("LAB_ANTHROPIC_BASE", "https://api.anthropic.com")
KEY = os.environ.get("LAB_KEY", "sk-lab-0123456789abcdef")


def prompt(call):
    return ("x" * call["padding"] + " " if call["padding"] else "") + call["order"]


def arguments(call):
    """Keyword arguments of the SDK method for this call."""
    messages = [{"role": "user", "content": prompt(call)}]
    if call["api"] == "responses":
        return {"model": call["model"], "input": prompt(call), "stream": call["stream"]}
    if call["api"] == "messages":
        return {"model": call["model"], "max_tokens": 64, "messages": messages, "stream": call["stream"]}
    kwargs = {"model": call["model"], "messages": messages, "stream": call["stream"]}
    if call["stream"] and call["include_usage"]:
        kwargs["stream_options"] = {"include_usage": True}
    return kwargs


def method(client, call):
    return {
        "chat": lambda: client.chat.completions.create,
        "responses": lambda: client.responses.create,
        "messages": lambda: client.messages.create,
    }[call["api"]]()


class Sizes:
    """Bytes of each body as they travelled, counted by the HTTP library below the SDK."""

    def __init__(self):
        self.answers = {}

    def note(self, answer):
        text = answer.request.content.decode()
        self.answers[next(order for order in self.answers if order in text)] = answer

    async def note_async(self, answer):
        self.note(answer)

    def of(self, call):
        answer = self.answers.pop(call["order"])
        return {"sent": len(answer.request.content), "received": answer.num_bytes_downloaded}


def report(call, started, ok, **more):
    elapsed = (time.perf_counter() - started) * 1000
    print(json.dumps({"ok": ok, "order": call["order"], "ms": elapsed, **more}), flush=True)


def run_sync(client, calls, sizes):
    for call in calls:
        started = time.perf_counter()
        sizes.answers[call["order"]] = None
        try:
            answer = method(client, call)(**arguments(call))
            events = sum(1 for _ in answer) if call["stream"] else 1
            report(call, started, True, events=events, **sizes.of(call))
        except Exception as error:  # an application would see this too
            report(call, started, False, error=repr(error))


async def run_async(client, calls, sizes):
    async def one(call):
        started = time.perf_counter()
        sizes.answers[call["order"]] = None
        try:
            answer = await method(client, call)(**arguments(call))
            events = 0
            if call["stream"]:
                async for _ in answer:
                    events += 1
            report(call, started, True, events=events, **sizes.of(call))
        except Exception as error:
            report(call, started, False, error=repr(error))

    # Two at a time: more than one session in the process, each used again.
    for first in range(0, len(calls), 2):
        await asyncio.gather(*(one(call) for call in calls[first : first + 2]))


def run_httpx(calls, http2):
    import httpx

    with httpx.Client(timeout=30, http2=http2) as client:
        for call in calls:
            path = {"chat": "/chat/completions", "responses": "/responses"}.get(call["api"])
            url = OPENAI + path if path else ANTHROPIC + "/v1/messages"
            started = time.perf_counter()
            try:
                body = {key: value for key, value in arguments(call).items()}
                with client.stream("POST", url, json=body, headers={"authorization": "Bearer " + KEY}) as answer:
                    size = sum(len(piece) for piece in answer.iter_raw())
                    sent = int(answer.request.headers["content-length"])
                report(call, started, answer.status_code < 500, status=answer.status_code, sent=sent, received=size)
            except Exception as error:
                report(call, started, False, error=repr(error))


def main():
    mode = sys.argv[1]
    calls = [json.loads(line) for line in sys.stdin if line.strip()]
    sizes = Sizes()
    hooks = {"event_hooks": {"response": [sizes.note]}}
    hooks_async = {"event_hooks": {"response": [sizes.note_async]}}
    if mode == "openai":
        import openai

        http = openai.DefaultHttpxClient(**hooks)
        run_sync(openai.OpenAI(api_key=KEY, base_url=OPENAI, max_retries=0, http_client=http), calls, sizes)
    elif mode == "openai-async":
        import openai

        http = openai.DefaultAsyncHttpxClient(**hooks_async)
        asyncio.run(run_async(openai.AsyncOpenAI(api_key=KEY, base_url=OPENAI, max_retries=0, http_client=http), calls, sizes))
    elif mode == "anthropic":
        import anthropic

        http = anthropic.DefaultHttpxClient(**hooks)
        run_sync(anthropic.Anthropic(api_key=KEY, base_url=ANTHROPIC, max_retries=0, http_client=http), calls, sizes)
    elif mode == "anthropic-async":
        import anthropic

        http = anthropic.DefaultAsyncHttpxClient(**hooks_async)
        client = anthropic.AsyncAnthropic(api_key=KEY, base_url=ANTHROPIC, max_retries=0, http_client=http)
        asyncio.run(run_async(client, calls, sizes))
    elif mode == "httpx":
        run_httpx(calls, http2=False)
    elif mode == "httpx-http2":
        run_httpx(calls, http2=True)
    else:
        sys.exit(f"unknown mode {mode}")


main()
