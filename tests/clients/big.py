"""A request body of exactly 3,000,000 bytes over a socket that is full and has a timeout: many failed writes, one body."""

import json
import socket
import ssl
import sys

SIZE = 3_000_000
number = int(sys.argv[1])
raw = socket.socket()
raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
raw.settimeout(30)
raw.connect(("api.openai.com", 443))
session = ssl.create_default_context().wrap_socket(raw, server_hostname="api.openai.com")
order = f"lab input={number} output=5 cached=0 reasoning=0"
start = json.dumps({"model": "gpt-4o", "stream": False})[:-1] + ', "messages": [{"role": "user", "content": "'
end = " " + order + '"}]}'
body = (start + "x" * (SIZE - len(start) - len(end)) + end).encode()
assert len(body) == SIZE
head = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
).encode()
session.sendall(head)
session.settimeout(0.05)
sent = timeouts = 0
while sent < len(body):
    try:
        sent += session.send(body[sent:])
    except (TimeoutError, ssl.SSLWantWriteError):
        timeouts += 1
session.settimeout(30)
answer = b""
while piece := session.recv(65536):
    answer += piece
print(json.dumps({"ok": answer.startswith(b"HTTP/1.1 200"), "head": len(head), "body": sent, "received": len(answer), "timeouts": timeouts}))
