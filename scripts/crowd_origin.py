#!/usr/bin/env python3
"""The origin server of the crowds: what it does follows from the path. One thread; prints its port.

    scripts/crowd_origin.py [LATE]

    /hit          1 KiB that may be stored
    /miss/N       1 KiB that may not, and so with all that follows
    /events/N     an event stream: an event each second, for ever
    /download/N   1 MiB
    /upload/N     takes what comes, and never answers
    /late/N       1 KiB, LATE seconds (30) after it was asked
    /standing     how many requests of each kind it has at the moment, as JSON

Part of scripts/bench. It ends with its standard input.
"""

import collections
import contextlib
import json
import re
import selectors
import socket
import sys
import time

LATE = float(sys.argv[1]) if len(sys.argv) > 1 else 30
# The event streams take turns within each second, so that no moment is busier than another.
SLOTS = 100
NO_STORE = b"Cache-Control: no-store\r\n"


def response(fields, content):
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (fields, len(content), content)


HIT = response(b"Cache-Control: max-age=3600\r\n", b"x" * 1024)
MISS = response(NO_STORE, b"x" * 1024)
DOWNLOAD = response(NO_STORE, b"x" * (1 << 20))
STREAM = b"HTTP/1.1 200 OK\r\n" + NO_STORE + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"data: x\n\n"
EVENT = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)


class Connection:
    def __init__(self, taken):
        self.socket = taken
        self.unread = b""
        self.unsent = memoryview(b"")
        self.kind = ""  # of the request that it stands for, if it stands


class Origin:
    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        # Connections inherit this: what a proxy does not take stays here, and not in the kernel.
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        self.listener.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        self.standing = collections.Counter()
        self.slots = [set() for _ in range(SLOTS)]
        self.late = collections.deque()

    def run(self):
        print(self.listener.getsockname()[1], flush=True)
        tick, due = 0, time.monotonic()
        while True:
            for key, events in self.selector.select(max(due - time.monotonic(), 0)):
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj is sys.stdin:
                    return
                else:
                    with self.closing_on_error(key.data):
                        if events & selectors.EVENT_WRITE:
                            self.send(key.data)
                        if events & selectors.EVENT_READ:
                            self.read(key.data)
            if due <= (now := time.monotonic()):
                for connection in list(self.slots[tick % SLOTS]):
                    if not connection.unsent:
                        with self.closing_on_error(connection):
                            self.send(connection, EVENT)
                tick, due = tick + 1, due + 1 / SLOTS
            while self.late and self.late[0][0] <= now:
                _, connection = self.late.popleft()
                if connection.kind == "late":
                    self.stands(connection, "")
                    with self.closing_on_error(connection):
                        self.send(connection, MISS)

    def accept(self):
        with contextlib.suppress(BlockingIOError):
            for _ in range(100):
                taken, _ = self.listener.accept()
                taken.setblocking(False)
                self.selector.register(taken, selectors.EVENT_READ, Connection(taken))

    @contextlib.contextmanager
    def closing_on_error(self, connection):
        try:
            yield
        except OSError:
            self.stands(connection, "")
            for slot in self.slots:
                slot.discard(connection)
            with contextlib.suppress(KeyError):
                self.selector.unregister(connection.socket)
            connection.socket.close()

    def stands(self, connection, kind):
        self.standing[connection.kind] -= 1
        self.standing[kind] += 1
        connection.kind = kind

    def read(self, connection):
        with contextlib.suppress(BlockingIOError):
            piece = connection.socket.recv(1 << 18)
            if not piece:
                raise ConnectionError
            if connection.kind == "upload":
                return
            connection.unread += piece
        while b"\r\n\r\n" in connection.unread and not connection.kind:
            head, connection.unread = connection.unread.split(b"\r\n\r\n", 1)
            self.answer(connection, re.match(rb"\w+ (?:http://[^/]*)?/(\w+)", head)[1].decode())

    def answer(self, connection, kind):
        if kind in ("events", "upload", "late", "download"):
            self.stands(connection, kind)
        if kind == "events":
            self.send(connection, STREAM + EVENT)
            self.slots[min(range(SLOTS), key=lambda slot: len(self.slots[slot]))].add(connection)
        elif kind == "late":
            self.late.append((time.monotonic() + LATE, connection))
        elif kind == "standing":
            self.send(connection, response(NO_STORE, json.dumps(self.standing).encode()))
        elif kind != "upload":
            self.send(connection, {"hit": HIT, "miss": MISS, "download": DOWNLOAD}[kind])

    def send(self, connection, more=b""):
        if more:
            connection.unsent = memoryview(bytes(connection.unsent) + more) if connection.unsent else memoryview(more)
        with contextlib.suppress(BlockingIOError):
            while connection.unsent:
                connection.unsent = connection.unsent[connection.socket.send(connection.unsent):]
        if not connection.unsent and connection.kind == "download":
            self.stands(connection, "")
        interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        if self.selector.get_key(connection.socket).events != interest:
            self.selector.modify(connection.socket, interest, connection)


Origin().run()
