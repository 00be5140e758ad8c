"""One process, one libssl, sessions to an AI and to other hosts interleaved on several threads.

Reads one JSON object: {"rounds", "threads", "marker", "base"}. Reports what it sent and received per kind of session, as the
application counts it.
"""

import json
import socket
import ssl
import sys
import threading

plan = json.load(sys.stdin)
context = ssl.create_default_context()
nameless = ssl.create_default_context()
nameless.check_hostname = False
totals = {kind: {"calls": 0, "sent": 0, "received": 0} for kind in ("ai", "other", "nameless")}
lock = threading.Lock()


def connect(host, sni):
    raw = socket.create_connection((host, 443), timeout=30)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return (context if sni else nameless).wrap_socket(raw, server_hostname=host if sni else None)


def call(session, host, path, body, kind):
    """One request on a session that stays open; returns nothing, adds to the totals."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer sk-lab-mixed\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    session.sendall(head + body)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += session.recv(65536)
    top, _, rest = answer.partition(b"\r\n\r\n")
    length = next(int(l.split(b":")[1]) for l in top.split(b"\r\n") if l.lower().startswith(b"content-length:"))
    while len(rest) < length:
        piece = session.recv(65536)
        answer += piece
        rest += piece
    with lock:
        totals[kind]["calls"] += 1
        totals[kind]["sent"] += len(head) + len(body)
        totals[kind]["received"] += len(answer)


def ai_body(number):
    order = f"lab input={number} output=5 cached=0 reasoning=0"
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": order}]}).encode()


def other_body():
    return json.dumps({"secret": plan["marker"] * 20}).encode()


def worker(index):
    for number in range(plan["rounds"]):
        # Both kinds open at once and used in turn; then freed, so that the next round reuses their addresses.
        ai = connect("api.openai.com", True)
        other = connect("www.example.org", True)
        for turn in range(2):
            call(other, "www.example.org", "/echo", other_body(), "other")
            call(ai, "api.openai.com", "/v1/chat/completions", ai_body(plan["base"] + index * 10_000 + number * 10 + turn), "ai")
        other.close()
        ai.close()
        bare = connect("www.example.org", False)
        call(bare, "www.example.org", "/echo", other_body(), "nameless")
        bare.close()


# Opened before anything makes this process interesting, used to the end.
early = connect("intranet.example.org", True)
call(early, "intranet.example.org", "/echo", other_body(), "other")
threads = [threading.Thread(target=worker, args=(index,)) for index in range(plan["threads"])]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
call(early, "intranet.example.org", "/echo", other_body(), "other")
print(json.dumps(totals), flush=True)
