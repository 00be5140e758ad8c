"""httpx over HTTP/2 by prior knowledge: `httpx_peer.py PORT` makes the calls that it reads as JSON lines, eight at a
time on one connection, and reports what each was answered."""
import asyncio, json, sys

import httpx


async def one(client, turn, call):
    headers = {"host": "api.openai.com", "authorization": "Bearer sk-lab-0123456789abcdef"}
    async with turn:
        answer = await client.post("/v1/chat/completions", json=call, headers=headers)
    documents = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.strip()]
    said = [json.loads(text) for text in documents if text != "[DONE]"]
    usage = next(one["usage"] for one in reversed(said) if one.get("usage"))
    print(json.dumps({
        "status": answer.status_code, "model": said[-1]["model"], "input": usage["prompt_tokens"],
        "output": usage["completion_tokens"], "cached": usage["prompt_tokens_details"]["cached_tokens"],
    }), flush=True)


async def main():
    calls = [json.loads(line) for line in sys.stdin if line.strip()]
    base, turn = f"http://127.0.0.1:{sys.argv[1]}", asyncio.Semaphore(8)
    async with httpx.AsyncClient(http1=False, http2=True, base_url=base, timeout=60) as client:
        await asyncio.gather(*[one(client, turn, call) for call in calls])


asyncio.run(main())
