#!/usr/bin/env python3
"""The origin server of replays: content of the size that the path names. A thread a connection; prints its port.

    scripts/replay_origin.py SCALE

    /SIZE/COST/ID   SIZE bytes that may be stored for a day, after COST microseconds times SCALE
    /asked          what it has been asked for: requests, bytes and cost, as JSON

Part of scripts/bench --hits-of. It ends with its standard input.
"""

import contextlib
import json
import re
import socket
import sys
import threading
import time

SCALE = float(sys.argv[1])
FILLER = memoryview(b"x" * (64 << 20))
# A sleep ends up to a tenth of a millisecond late, which is a lot beside a scaled cost: the rest is spun away.
SPIN_SECONDS = 0.0002
ASKED = {"requests": 0, "bytes": 0, "cost": 0}
LOCK = threading.Lock()


def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    sys.stdin.read()


def accept(listener):
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def serve(connection):
    unread = b""
    with contextlib.suppress(OSError), connection:
        while piece := connection.recv(1 << 16):
            unread += piece
            while b"\r\n\r\n" in unread:
                head, unread = unread.split(b"\r\n\r\n", 1)
                answer(connection, head.split(b" ", 2)[1])


def answer(connection, path):
    asked = re.fullmatch(rb"/(\d+)/(\d+)/(\w+)", path)
    if not asked:
        content = json.dumps(ASKED).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n%s"
                           % (len(content), content))
        return
    size, cost = int(asked[1]), int(asked[2])
    with LOCK:
        ASKED["requests"] += 1
        ASKED["bytes"] += size
        ASKED["cost"] += cost
    wait(cost * SCALE / 1e6)
    # The content begins with its path, so that the client notices another's.
    head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=86400\r\nContent-Length: %d\r\n\r\n%s" % (size, path[:size])
    rest = FILLER[:max(size - len(path), 0)]
    if len(rest) < 1 << 16:
        connection.sendall(head + rest)
    else:
        connection.sendall(head)
        connection.sendall(rest)


def wait(seconds):
    end = time.perf_counter() + seconds
    if seconds > SPIN_SECONDS:
        time.sleep(seconds - SPIN_SECONDS)
    while time.perf_counter() < end:
        pass


main()
