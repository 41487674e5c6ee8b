"""Crowds: what many clients that hold an exchange each do to those who come by.

Part of scripts/bench. Each crowd stands in front of each server, one after the other; meanwhile a bystander
asks for misses and hits on new connections. Whatever a server does, every step here ends by itself.
"""

import collections
import contextlib
import errno
import json
import os
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import time

from measure import (BESIDE, BINARY, QUICK, Server, Table, end, fetch, free_port, haproxy_conf, nginx_conf)

HERE = os.path.dirname(os.path.abspath(__file__))
CLIENTS = 500 if QUICK else 2000
CROWDS = {
    "events": "event streams",
    "download": "slow downloads, 1 KiB a second of 1 MiB",
    "upload": "uploads that stop half way",
    "late": "answers that take 30 s",
}
# A crowd has so many seconds to come together, and no more once so many have passed without progress.
GATHERING, PATIENCE = 20, 1.5 if QUICK else 5
# The bystander asks for so many seconds, every so often, and waits until so many have passed in all.
ASKING, EVERY, WAITING = 1 if QUICK else 2, 0.1, 5


class Script:
    """One of the programs beside this one, on the load's core; it ends with its standard input."""

    def __init__(self, name, *words):
        command = ["taskset", "-c", "1", sys.executable, os.path.join(HERE, name), *(str(word) for word in words)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        if line := self.process.stdout.readline():
            return json.loads(line)
        raise OSError(f"{self.process.args[4]} has ended")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        end(self.process)
        self.process.stdout.close()


class Outcome:
    """What one crowd did to one server."""

    def __init__(self):
        self.standing, self.seconds, self.lost, self.note = 0, 0.0, {}, ""
        self.threads = self.memory = None
        self.asked = {"miss": Asked(), "hit": Asked()}

    def crowd(self):
        if self.note:
            return self.note
        if self.standing == CLIENTS:
            return f"{self.standing:,} in {self.seconds:.1f} s"
        why = "".join(f"; {count:,} got {reason}" for reason, count in self.lost.items())
        return f"NO MORE THAN {self.standing:,} in {self.seconds:.1f} s{why}"


class Asked:
    """What the bystander got, in milliseconds, and what came instead of the rest."""

    def __init__(self):
        self.times, self.failures = [], collections.Counter()

    def worst(self):
        return max(self.times) if self.times and not self.failures else None

    def shown(self):
        times = [f"{max(self.times):.1f} ({statistics.median(self.times):.1f})"] if self.times else []
        failures = [f"{count} got {what}" for what, count in self.failures.items()]
        return "; ".join(([f"FAILED: {', '.join(failures)}"] if failures else []) + times)


def crowds(folder):
    """One table; in its rows, what stood, what the bystander got, and what it cost the server."""
    affinity = os.sched_getaffinity(0)
    # The bystander is this process; it stays off the server's core.
    os.sched_setaffinity(0, {1})
    try:
        table = None
        for kind, what in (CROWDS if QUICK else {"": "nobody", **CROWDS}).items():
            outcomes, names = {}, []
            with Script("crowd_origin.py") as origin:
                behind = origin.line()
                for server in servers(folder, behind):
                    names.append(server)
                    outcomes[server.name] = beset(server, kind, behind)
            table = table or Table(names, f"{CLIENTS:,} clients at once")
            rows(table, what, outcomes)
    finally:
        os.sched_setaffinity(0, affinity)


def beset(server, kind, behind):
    """One crowd in front of one server, which is started for it and ended after it."""
    outcome = Outcome()
    try:
        server.start()
        fetch(server, "/hit")
        fetch(server, "/miss/first")
        threads, memory = server.threads(), server.memory()
        with Script("crowd_clients.py", kind, CLIENTS, server.port) if kind else contextlib.nullcontext() as crowd:
            if crowd:
                gather(crowd, kind, behind, outcome)
                if outcome.standing == CLIENTS:
                    # What its arrival has set off is over then: the rest is what standing costs.
                    time.sleep(0.3)
            bystander(server.port, outcome.asked)
            outcome.threads = threads, server.threads()
            there = max(CLIENTS - sum(outcome.lost.values()), 1)
            outcome.memory = max(server.memory() - memory, 0) / there / 1024
            if server.process.poll() is not None:
                outcome.note = f"THE SERVER HAS ENDED with {server.process.returncode}"
    except OSError as error:
        outcome.note = f"FAILED: {error}"
    finally:
        server.end()
    return outcome


def gather(crowd, kind, behind, outcome):
    """Waits until the crowd stands, or no more come."""
    begun = progress = time.monotonic()
    while outcome.standing < CLIENTS:
        state = crowd.line()
        standing = at_origin(behind, kind) if kind == "late" else state["standing"]
        now = time.monotonic()
        if standing > outcome.standing:
            progress = now
        outcome.standing, outcome.lost, outcome.seconds = standing, state["lost"], now - begun
        if now > begun + GATHERING or now > progress + PATIENCE:
            return


def at_origin(behind, kind):
    """How many requests of this kind the origin server is holding."""
    with socket.create_connection(("127.0.0.1", behind), 5) as client:
        client.sendall(b"GET /standing HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = b""
        while not got.endswith(b"}"):
            piece = client.recv(4096)
            if not piece:
                raise OSError("the origin server of the crowds has ended")
            got += piece
    return json.loads(got.split(b"\r\n\r\n", 1)[1]).get(kind, 0)


def bystander(port, asked):
    """Asks on time whatever has come of what it asked before: one that waits for answers would ask less
    where they are late."""
    selector, begun, sent, last = selectors.DefaultSelector(), time.monotonic(), 0, round(ASKING / EVERY)
    while (now := time.monotonic()) < begun + WAITING and (sent < last or selector.get_map()):
        if sent < last and now >= begun + sent * EVERY:
            for path in ("/hit", f"/miss/{sent}"):
                request = Request(port, path)
                selector.register(request.socket, selectors.EVENT_WRITE, request)
            sent += 1
        pause = begun + (sent * EVERY if sent < last else WAITING) - time.monotonic()
        for key, _ in selector.select(max(pause, 0)):
            if outcome := key.data.go_on(selector):
                settle(selector, key, outcome, asked)
    for key in list(selector.get_map().values()):
        settle(selector, key, "nothing", asked)
    selector.close()


def settle(selector, key, outcome, asked):
    """The bystander has its answer, or something else."""
    asked = asked["hit" if key.data.path == "/hit" else "miss"]
    if outcome == "200":
        asked.times.append((time.monotonic() - key.data.begun) * 1000)
    else:
        asked.failures[outcome] += 1
    selector.unregister(key.fileobj)
    key.fileobj.close()


class Request:
    """One of the bystander's, on a connection of its own."""

    def __init__(self, port, path):
        self.path, self.got, self.begun = path, b"", time.monotonic()
        self.unsent = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))

    def go_on(self, selector):
        """The status of the response when it is whole, or what came instead; None if more is to come."""
        try:
            if self.unsent:
                self.socket.send(self.unsent)
                self.unsent = b""
                selector.modify(self.socket, selectors.EVENT_READ, self)
                return None
            piece = self.socket.recv(1 << 16)
        except OSError as error:
            return errno.errorcode.get(error.errno, "an error")
        self.got += piece
        if b"\r\n" in self.got:
            status = self.got.split(b" ", 2)[1].decode()
            if status != "200" or self.got.endswith(b"x" * 1024):
                return status
        return None if piece else "an early end"


def rows(table, what, outcomes):
    def row(title, value, shown, better=min):
        values = {name: value(outcome) for name, outcome in outcomes.items()}
        table.row(title, values, lambda name, _: shown(outcomes[name]), better)

    if what != "nobody":
        row(f"**{what}**", lambda _: None, Outcome.crowd)
    for kind in ("miss", "hit"):
        beside = f"a {kind} beside them" if what != "nobody" else f"**nobody**: a {kind}"
        row(f"{beside}: worst (median), ms", lambda outcome: outcome.asked[kind].worst(),
            lambda outcome: outcome.asked[kind].shown())
    if what != "nobody":
        row("threads before, and with them", lambda _: None,
            lambda outcome: "" if outcome.threads is None else "{} → {}".format(*outcome.threads))
        row("memory for each of them, KiB", lambda outcome: outcome.memory,
            lambda outcome: "" if outcome.memory is None else f"{outcome.memory:.1f}")


def servers(folder, behind):
    """All of them with a cache, for the hits. What is not stored nginx passes on as it comes, as the others
    do; left to itself it would collect the crowds' uploads and downloads in files."""
    ours = ["--origin", f"http://127.0.0.1:{behind}", "--log-level", "off", "--origin-timeout", "60s"]
    port = free_port()
    yield Server("proxy", [BINARY, "--port", str(port), *ours, "--threads", "1"], port)
    if BESIDE:
        port = free_port()
        yield Server("other build", [BESIDE, "--port", str(port), *ours], port)
    if shutil.which("nginx"):
        port = free_port()
        conf = nginx_conf(folder, "nginx-crowds", f"""proxy_cache_path {folder}/crowds keys_zone=all:1m;
            upstream origin {{ server 127.0.0.1:{behind}; keepalive 64; }}
            proxy_http_version 1.1; proxy_set_header Connection "";
            server {{ listen 127.0.0.1:{port};
            location /hit {{ proxy_cache all; proxy_pass http://origin; }}
            location / {{ proxy_buffering off; proxy_request_buffering off; proxy_pass http://origin; }} }}""")
        yield Server("nginx", ["nginx", "-p", folder, "-c", conf], port)
    if shutil.which("haproxy"):
        port = free_port()
        conf = haproxy_conf(folder, "haproxy-crowds", port, behind)
        yield Server("haproxy", ["haproxy", "-f", conf], port)
