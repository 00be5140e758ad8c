"""Real SDKs that are answered with what the test recorded. Reads orders as JSON lines, reports each as a JSON line."""

import json
import os
import sys

KEY = os.environ.get("LAB_KEY", "sk-lab-0123456789abcdef")


def call_openai(order):
    import openai

    client = openai.OpenAI(
        api_key=KEY,
        base_url="https://api.openai.com/v1",
        organization=order["organization"],
        project=order["project"],
        default_headers=order["headers"],
        max_retries=2,
    )
    client.chat.completions.create(model=order["model"], messages=[{"role": "user", "content": "a question"}], n=2)


def call_anthropic(order):
    import anthropic

    client = anthropic.Anthropic(api_key=KEY, default_headers=order["headers"], max_retries=2)
    messages = [{"role": "user", "content": "a question"}]
    for _ in client.messages.create(model=order["model"], max_tokens=64, messages=messages, stream=True):
        pass


for line in sys.stdin:
    order = json.loads(line)
    try:
        {"openai": call_openai, "anthropic": call_anthropic}[order["sdk"]](order)
        print(json.dumps({"ok": True}), flush=True)
    except Exception as error:
        print(json.dumps({"ok": False, "error": repr(error)}), flush=True)
