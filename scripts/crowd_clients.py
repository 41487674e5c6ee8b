#!/usr/bin/env python3
"""A crowd: many clients that all do the same, each on a connection of its own. One thread.

    scripts/crowd_clients.py KIND COUNT PORT

    events     asks for an event stream; stands when it has an event
    download   asks for 1 MiB and takes 1 KiB a second; stands when it has the head of the response
    upload     sends half of 1 MiB and then nothing more; stands when that half is taken
    late       asks for what takes long; stands when it has asked, and how many of these have reached the
               origin server is for that to say

Part of scripts/bench. Prints a line of JSON ten times a second: how many stand, and why others do not. It
ends with its standard input.
"""

import collections
import errno
import json
import selectors
import socket
import sys
import time

KIND, COUNT, PORT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
# So many connect at a time: fewer than any server's backlog.
CONNECTING = 64
SIZE, SLOTS = 1 << 20, 100


class Client:
    def __init__(self, number):
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if KIND == "download":
            # Small segments and a small window: the response waits in the server, and not in the kernel.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        if KIND == "upload":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        self.socket.connect_ex(("127.0.0.1", PORT))
        self.connected = self.standing = False
        self.got = b""
        method, length = ("POST", f"Content-Length: {SIZE}\r\n") if KIND == "upload" else ("GET", "")
        head = f"{method} /{KIND}/{number} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n".encode()
        self.unsent = memoryview(head + b"x" * (SIZE // 2 if KIND == "upload" else 0))


class Crowd:
    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        self.made = self.connecting = self.standing = 0
        self.lost = collections.Counter()
        self.slots = [[] for _ in range(SLOTS)]

    def run(self):
        tick, due = 0, time.monotonic()
        while True:
            while self.made < COUNT and self.connecting < CONNECTING:
                client = Client(self.made)
                self.made += 1
                self.connecting += 1
                self.selector.register(client.socket, selectors.EVENT_WRITE, client)
            for key, events in self.selector.select(max(due - time.monotonic(), 0)):
                if key.fileobj is sys.stdin:
                    return
                try:
                    if events & selectors.EVENT_WRITE:
                        self.write(key.data)
                    if events & selectors.EVENT_READ:
                        self.read(key.data)
                except BlockingIOError:
                    pass
                except OSError as error:
                    self.lose(key.data, errno.errorcode.get(error.errno, "an early end"))
            if due <= time.monotonic():
                self.slots[tick % SLOTS] = [client for client in self.slots[tick % SLOTS] if self.sip(client)]
                tick, due = tick + 1, due + 1 / SLOTS
                if tick % 10 == 0:
                    print(json.dumps({"standing": self.standing, "lost": self.lost}), flush=True)

    def write(self, client):
        if not client.connected:
            if error := client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, "")
            client.connected = True
            self.connecting -= 1
            self.selector.modify(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
        while client.unsent:
            client.unsent = client.unsent[client.socket.send(client.unsent[:1 << 16]):]
        self.selector.modify(client.socket, selectors.EVENT_READ, client)
        if KIND in ("upload", "late"):
            self.stands(client)

    def read(self, client):
        piece = client.socket.recv(1024 if KIND == "download" else 1 << 16)
        if not piece:
            raise ConnectionError
        if client.standing and KIND == "events":
            return
        client.got += piece
        if b"\r\n\r\n" not in client.got:
            return
        status = client.got.split(b" ", 2)[1].decode()
        if status == "100":
            client.got = client.got.split(b"\r\n\r\n", 1)[1]
        elif status != "200":
            self.lose(client, status)
        elif KIND == "download":
            self.stands(client)
            self.selector.unregister(client.socket)
            min(self.slots, key=len).append(client)
        elif KIND == "events":
            if b"data:" in client.got:
                self.stands(client)
                client.got = b""
        else:
            self.lose(client, "an answer")

    def sip(self, client):
        """Takes 1 KiB of a download; false when it has ended."""
        try:
            if client.socket.recv(1024):
                return True
        except BlockingIOError:
            return True
        except OSError:
            pass
        self.lose(client, "an early end")
        return False

    def stands(self, client):
        client.standing = True
        self.standing += 1

    def lose(self, client, why):
        self.connecting -= not client.connected
        self.standing -= client.standing
        self.lost[why] += 1
        if client.socket.fileno() in self.selector.get_map():
            self.selector.unregister(client.socket)
        client.socket.close()


Crowd().run()
