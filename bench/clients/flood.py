"""Unthrottled 16 KB writes on one AI session. Argument: number of requests of 1 MiB. Reports bytes written."""

import json
import socket
import ssl
import sys
import time

SIZE, PIECE = 1 << 20, 16 * 1024
count = int(sys.argv[1])
raw = socket.create_connection(("api.openai.com", 443), timeout=30)
session = ssl.create_default_context().wrap_socket(raw, server_hostname="api.openai.com")
head = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Type: application/json\r\n"
    f"Content-Length: {SIZE}\r\n\r\n"
).encode()
start, end = b'{"model":"gpt-4o","messages":[{"role":"user","content":"', b'"}]}'
body = start + b"x" * (SIZE - len(start) - len(end)) + end
time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
began, sent = time.perf_counter(), 0
for _ in range(count):
    session.sendall(head)
    for offset in range(0, SIZE, PIECE):
        session.sendall(body[offset : offset + PIECE])
    sent += len(head) + SIZE
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += session.recv(65536)
    top, _, rest = answer.partition(b"\r\n\r\n")
    length = next(int(l.split(b":")[1]) for l in top.split(b"\r\n") if l.lower().startswith(b"content-length:"))
    while len(rest) < length:
        rest += session.recv(65536)
print(json.dumps({"sent": sent, "seconds": time.perf_counter() - began}))
