"""Sends recorded requests to the local provider, which answers with the recorded responses. One JSON line each."""

import json
import sys

import httpx

with httpx.Client(timeout=30) as client:
    for line in sys.stdin:
        item = json.loads(line)
        headers = {"content-type": "application/json", "authorization": "Bearer sk-lab-replay", "x-lab-replay": item["id"]}
        try:
            url = f"https://{item['host']}{item['target']}"
            with client.stream(item["method"], url, content=item["body"].encode(), headers=headers) as answer:
                received = sum(len(piece) for piece in answer.iter_raw())
            print(json.dumps({"ok": True, "id": item["id"], "received": received}), flush=True)
        except Exception as error:
            print(json.dumps({"ok": False, "id": item["id"], "error": repr(error)}), flush=True)
