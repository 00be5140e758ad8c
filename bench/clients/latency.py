"""Latency of real SDK calls. Arguments: base URL, calls. Prints the milliseconds of each call as one JSON list."""

import json
import sys
import time

import openai

client = openai.OpenAI(api_key="sk-lab-bench", base_url=sys.argv[1], max_retries=0)
times = []
for number in range(int(sys.argv[2]) + 5):
    order = f"lab input={2_000_000 + number} output=5 cached=0 reasoning=0"
    started = time.perf_counter()
    client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": order}])
    times.append((time.perf_counter() - started) * 1000)
print(json.dumps(times[5:]))
