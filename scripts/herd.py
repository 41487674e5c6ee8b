#!/usr/bin/env python3
"""A thousand clients at once, on one key: what reaches the origin server, and what memory it takes.

    scripts/herd.py [BINARY]

Part of scripts/bench; prints rows of its second table. Everything runs on 127.0.0.1 and ends by itself.
"""

import collections
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time

CLIENTS = 1000
LARGE = 100 << 20


class Origin:
    """Counts what it is asked, by path."""

    def __init__(self):
        self.counts = collections.Counter()
        self.connections = []
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def die(self):
        """From now on nobody answers, and new connections are refused."""
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def serve(self, connection):
        reader = connection.makefile("rb")
        try:
            while line := reader.readline():
                path = line.split()[1].decode()
                while reader.readline() not in (b"\r\n", b""):
                    pass
                self.counts[path] += 1
                self.answer(connection, path)
        except OSError:
            pass
        connection.close()

    def answer(self, connection, path):
        fields = {"/shared": "max-age=60", "/own": "no-store", "/large": "max-age=60"}
        fields = "Cache-Control: " + fields.get(path, "max-age=60\r\nAge: 60")
        length = LARGE if path == "/large" else 1024
        if path in ("/shared", "/own"):
            time.sleep(0.3)
        close = "Connection: close\r\n" if path == "/stale" else ""
        head = f"HTTP/1.1 200 OK\r\n{fields}\r\n{close}Content-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        piece = b"x" * min(length, 1 << 20)
        for _ in range(length // len(piece)):
            connection.sendall(piece)
        if close:
            connection.shutdown(socket.SHUT_RDWR)


def start(binary, origin, log, *flags):
    command = [binary, "--port", "0", "--origin", f"http://127.0.0.1:{origin.port}", "--log-level", "info", *flags]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    port = int(child.stdout.readline().strip().rsplit(":", 1)[1])
    return child, port


def ask(port, path, most):
    """All clients at once; each reads `most` bytes and then keeps its connection, until all have."""
    selector = selectors.DefaultSelector()
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    heads, left = {}, {}
    begun = time.monotonic()
    for _ in range(CLIENTS):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(request)
        client.setblocking(False)
        heads[client], left[client] = b"", most
        selector.register(client, selectors.EVENT_READ)
    waiting = CLIENTS
    while waiting and time.monotonic() < begun + 60:
        for key, _ in selector.select(1):
            client = key.fileobj
            piece = client.recv(1 << 18)
            if len(heads[client]) < 16:
                heads[client] += piece[:16]
            left[client] -= len(piece)
            if left[client] <= 0 or not piece:
                selector.unregister(client)
                waiting -= 1
    seconds = time.monotonic() - begun
    good = sum(head.startswith(b"HTTP/1.1 200") for head in heads.values())
    for client in heads:
        client.close()
    return seconds, good


def peak(child):
    with open(f"/proc/{child.pid}/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else "target/release/proxy"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    origin, log = Origin(), tempfile.TemporaryFile("w+")
    child, port = start(binary, origin, log)
    for name, path in (("cold, shareable", "/shared"), ("cold, unshareable", "/own")):
        seconds, good = ask(port, path, 1100)
        print(f"| {CLIENTS} clients, {name}: origin requests | {origin.counts[path]} ({good} times 200, {seconds:.1f} s) |")
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /stale HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while client.recv(4096):
            pass
    origin.die()
    seconds, good = ask(port, "/stale", 1100)
    child.terminate()
    child.wait()
    log.seek(0)
    attempts = log.read().count("no connection")
    print(f"| {CLIENTS} clients, stale, origin server dead: attempts to reach it | {attempts} ({good} times 200, {seconds:.1f} s) |")
    origin = Origin()
    child, port = start(binary, origin, log, "--cache-memory", "512M", "--max-object-size", "128M")
    before = peak(child)
    seconds, good = ask(port, "/large", 3 << 20)
    print(f"| {CLIENTS} clients, one growing body of 100 MiB: peak memory | {peak(child):.0f} MiB "
          f"({before:.0f} MiB before; {origin.counts['/large']} origin request; {good} times 200; all have 3 MiB after {seconds:.1f} s) |")
    child.terminate()
    child.wait()


main()
