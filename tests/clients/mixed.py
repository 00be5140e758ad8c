"""One process, one libssl, sessions to an AI and to other hosts interleaved on several threads.

Reads one JSON object on a line: {"rounds", "threads", "marker", "base"}. Opens a session to an intranet host, says
"early", and goes on when the next line comes. Reports what it sent and received per kind of session, as the application
counts it, and at how many addresses an `SSL` object of an AI session stood where one of another session had been freed,
or the other way round.
"""

import ctypes
import json
import socket
import ssl
import sys
import threading

plan = json.loads(sys.stdin.readline())
context = ssl.create_default_context()
nameless = ssl.create_default_context()
nameless.check_hostname = False
totals = {kind: {"calls": 0, "sent": 0, "received": 0} for kind in ("ai", "other", "nameless")}
lock = threading.Lock()
kinds_at = {}


def ssl_address(session):
    """Address of the session's `SSL` object: CPython's `PySSLSocket` is a head of two words, a weak reference, then it."""
    return ctypes.c_void_p.from_address(id(session._sslobj) + 3 * ctypes.sizeof(ctypes.c_void_p)).value



def connect(host, sni):
    raw = socket.create_connection((host, 443), timeout=30)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    session = (context if sni else nameless).wrap_socket(raw, server_hostname=host if sni else None)
    with lock:
        kinds_at.setdefault(ssl_address(session), set()).add("ai" if host == "api.openai.com" else "other")
    return session


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
print("early", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=worker, args=(index,)) for index in range(plan["threads"])]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
call(early, "intranet.example.org", "/echo", other_body(), "other")
reused = sum(len(kinds) > 1 for kinds in kinds_at.values())
print(json.dumps(totals | {"reused": reused}), flush=True)
