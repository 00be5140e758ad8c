"""Write+read pairs on one TLS session; reports CPU time of this process per pair.

Arguments: host, pairs per round, bytes of a write at least. Waits for a line before each round, so that rounds can be
interleaved with another process's.
"""

import json
import socket
import ssl
import sys
import time

host, pairs, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
context = ssl.create_default_context()
session = None
order = "lab input=21 output=9 cached=0 reasoning=0"
path = "/v1/chat/completions" if host.startswith("api.") else "/page"


def request_of(padding):
    messages = [{"role": "system", "content": "x" * padding}, {"role": "user", "content": order}]
    body = json.dumps({"model": "gpt-4o", "messages": messages}).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer sk-lab-bench\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body):6}\r\n\r\n"
    ).encode() + body


request = request_of(max(0, size - len(request_of(0))))


def open_session():
    raw = socket.create_connection((host, 443), timeout=30)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(raw, server_hostname=host)


def size_of_answer():
    """Length of one answer, which is the same for all but for digits of ids: read until the head says enough."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += session.recv(65536)
    head, _, rest = answer.partition(b"\r\n\r\n")
    length = next(int(l.split(b":")[1]) for l in head.split(b"\r\n") if l.lower().startswith(b"content-length:"))
    while len(rest) < length:
        rest += session.recv(65536)


for line in sys.stdin:
    session = open_session()
    session.sendall(request)
    size_of_answer()
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    for _ in range(pairs):
        session.sendall(request)
        size_of_answer()
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    session.close()
    print(json.dumps({"cpu_ns": cpu / pairs, "wall_ns": wall / pairs}), flush=True)
