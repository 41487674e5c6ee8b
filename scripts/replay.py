"""Hit ratio at equal memory: a trace over HTTP through the proxy, under each of its policies, and through its peers.

    scripts/bench --hits-of TRACE [--hits-of TRACE...] [--memory 4M,16M,48M] [--policies cost,s3-fifo,lru]
                  [--peers nginx,haproxy,varnish] [--cost-scale 0.02] [--yardstick] [--binary BINARY]

TRACE has a request a line, `id size` or `id size cost`, the cost in milliseconds of the origin server's time; it may
be a .xz or .gz, `-` is the standard input, and `synthetic` or `synthetic:SEED` comes from synthetic_trace.py.
--peers none leaves the peers out. --yardstick adds what is attainable, which yardstick.py works out offline.

The ratios follow from what the origin server was asked, which is the truth and the same for all. One connection asks
in the order of the trace, and for the next when it has the whole answer: what is found depends on no timing. Memory
is PSS, summed over a server's processes, with nothing subtracted: the highest of 20 readings.
"""

import argparse
import contextlib
import gzip
import json
import lzma
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import typing

import yardstick
from measure import BINARY, BUILT, PEERS, ROOT, build
from replay_servers import MEBIBYTE, entrants
from synthetic_trace import trace as synthetic_trace
from uncached import left_out

# At their full length, the costs of a trace would take hours. Scaled, 40 ms are 0.8 ms, still well above the noise of
# loopback, 0.1 ms. The transfer is not scaled: 1 MiB counts as much as some 20 ms.
COST_SCALE = 0.02
# Where the trace names no costs, all are the same: otherwise the policies that weigh them would weigh noise.
SAME_COST_MS = 40
MEMORY_READINGS = 20
COLUMNS = {"requests": "object hit ratio, %", "bytes": "byte hit ratio, %", "cost": "origin time saved, %"}


class Request(typing.NamedTuple):
    name: str
    size: int
    cost: int  # microseconds of the origin server's time

    def path(self):
        return f"/{self.size}/{self.cost}/{self.name}".encode()


class Trace(typing.NamedTuple):
    name: str
    requests: list
    has_costs: bool

    def columns(self):
        return {name: title for name, title in COLUMNS.items() if name != "cost" or self.has_costs}

    def sums(self):
        return {"requests": len(self.requests), "bytes": sum(request.size for request in self.requests),
                "cost": sum(request.cost for request in self.requests)}

    def describe(self):
        distinct = set(self.requests)
        size = sum(request.size for request in distinct) / MEBIBYTE
        return f"{self.name}: {len(self.requests):,} requests for {len(distinct):,} responses, {size:,.1f} MiB"


def main():
    options = arguments()
    if BINARY == BUILT:
        build("--bins")
    for trace in [read(source) for source in options.hits_of]:
        for memory in options.memory:
            print(f"\n{trace.describe()}; {memory / MEBIBYTE:g} MiB of cache", flush=True)
            beside_peers(trace, memory, options)
            if options.yardstick:
                offline(trace, memory)


def arguments():
    words = lambda text: text.split(",")
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hits-of", action="append", metavar="TRACE")
    parser.add_argument("--memory", type=sizes, default="4M,16M,48M")
    parser.add_argument("--policies", type=words, default="cost,s3-fifo,lru")
    parser.add_argument("--peers", type=words, default=",".join(PEERS))
    parser.add_argument("--cost-scale", type=float, default=COST_SCALE)
    parser.add_argument("--yardstick", action="store_true")
    # These are read by measure.py.
    parser.add_argument("--binary")
    parser.add_argument("--beside")
    options = parser.parse_args()
    if options.peers == ["none"]:
        options.peers = []
    for name in options.peers:
        if name not in PEERS:
            parser.error(f"--peers {name}: unknown; expected some of {','.join(PEERS)}, or none")
    return options


def sizes(text):
    """Whole MiB: HAProxy is given these."""
    scale = {"M": 1, "G": 1024}
    if not re.fullmatch(r"[1-9]\d*[MG](,[1-9]\d*[MG])*", text):
        raise argparse.ArgumentTypeError(f"{text}: expected sizes such as 4M,16M,1G")
    return [int(word[:-1]) * scale[word[-1]] * MEBIBYTE for word in text.split(",")]


def read(source):
    """The trace, in which an id keeps its first size and cost."""
    if re.fullmatch(r"synthetic(:\d+)?", source):
        rows = [(str(name), size, cost) for name, size, cost in synthetic_trace(int(source[10:] or 1))]
        return Trace(source, normal(rows), True)
    try:
        with opened(source) as lines:
            rows = [line.split() for line in lines]
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        sys.exit(f"{source}: {error}; expected a trace, as plain text, .gz or .xz")
    has_costs = bool(rows) and len(rows[0]) == 3
    for number, row in enumerate(rows, 1):
        if not re.fullmatch(r"\w+ \d+" + r" \d+(\.\d+)?" * has_costs, " ".join(row)):
            sys.exit(f"{source}: line {number}: `{' '.join(row)}`; expected `id size`, or in all lines `id size cost`")
    rows = [(row[0], int(row[1]), float(row[2]) if has_costs else SAME_COST_MS) for row in rows]
    return Trace(re.sub(r"(\.txt)?(\.xz|\.gz)?$", "", os.path.basename(source)), normal(rows), has_costs)


def opened(source):
    if source == "-":
        return contextlib.nullcontext(sys.stdin)
    by_ending = {".xz": lzma.open, ".gz": gzip.open}.get(os.path.splitext(source)[1], open)
    return by_ending(source, "rt", encoding="ascii")


def normal(rows):
    known = {}
    return [known.setdefault(name, Request(name, size, round(cost * 1000))) for name, size, cost in rows]


def beside_peers(trace, memory, options):
    columns = trace.columns()
    # The files of nginx's cache are in memory, as all others' caches are.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        os.chmod(folder, 0o755)
        # Those that are left out are named before the table begins.
        taking_part = list(entrants(options.policies, options.peers, folder, memory))
        print()
        row("server", *columns.values(), "memory, MiB")
        row(*["---"] * (len(columns) + 2))
        for entrant in taking_part:
            with Origin(options.cost_scale if entrant.weighs_time else 0) as origin:
                memory_used, errors = replay(trace, entrant.make(origin.port))
                asked = origin.asked()
            saved = ratios(trace, asked)
            name = entrant.name + f" ({errors:,} ERRORS)" * bool(errors)
            row(name, *(f"{saved[column]:.2f}" for column in columns), f"{memory_used / MEBIBYTE:.1f}")


def offline(trace, memory):
    """What is attainable, where libcachesim is or can be installed."""
    python, why_not = yardstick.interpreter()
    if not python:
        left_out("the yardstick", why_not)
        return
    columns = trace.columns()
    print()
    row("offline, content alone", *columns.values())
    row(*["---"] * (len(columns) + 1))
    for policy, sums in yardstick.missed(python, trace.requests, memory).items():
        saved = ratios(trace, sums)
        row(policy, *(f"{saved[column]:.2f}" for column in columns))


def ratios(trace, missed):
    """In percent, from the sums over what was missed."""
    return {name: 100 * (1 - missed[name] / whole) if whole else 0 for name, whole in trace.sums().items()}


def row(*cells):
    print(f"| {' | '.join(cells)} |", flush=True)


class Origin:
    """A process of its own, so that it does not wait until the client lets it run."""

    def __init__(self, scale):
        command = [sys.executable, os.path.join(ROOT, "scripts/replay_origin.py"), str(scale)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def asked(self):
        """Sums over what it was asked for."""
        with contextlib.closing(Client(self.port)) as client:
            return json.loads(client.answer(b"/asked")[1])


def replay(trace, server):
    """The most memory of all readings, and how many answers were wrong."""
    memory, errors = 0, 0
    each = len(trace.requests) // MEMORY_READINGS + 1
    server.start()
    try:
        with contextlib.closing(Client(server.port)) as client:
            for first in range(0, len(trace.requests), each):
                errors += sum(not client.is_answered(request) for request in trace.requests[first:first + each])
                memory = max(memory, server.memory())
    finally:
        server.end()
    return memory, errors


class Client:
    """One connection, kept alive. Answers are read whole."""

    def __init__(self, port):
        self.port = port
        self.space = bytearray(MEBIBYTE)
        self.connect()

    def connect(self):
        self.socket = socket.create_connection(("127.0.0.1", self.port), 20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self):
        self.socket.close()

    def is_answered(self, request):
        """Has it got the right answer? That has the right size, and begins with its path."""
        path = request.path()
        with contextlib.suppress(OSError):
            status, first, size = self.answer(path)
            return status == 200 and size == request.size and first.startswith(path[:min(size, len(first))])
        self.close()
        self.connect()
        return False

    def answer(self, path):
        """The status code, the first bytes of the content, and its size."""
        self.socket.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
        got = b""
        while (end := got.find(b"\r\n\r\n")) < 0:
            piece = self.socket.recv(1 << 16)
            if not piece:
                raise ConnectionError("no answer")
            got += piece
        head, first = got[:end], got[end + 4:]
        length = re.search(rb"\r\n(?i:content-length): *(\d+)", head)
        if not length:
            raise ConnectionError("an answer without a length")
        missing = int(length[1]) - len(first)
        while missing > 0:
            count = self.socket.recv_into(self.space, min(missing, len(self.space)))
            if not count:
                raise ConnectionError("an answer that is cut")
            missing -= count
        if missing < 0:
            raise ConnectionError("more than an answer")
        return int(head[9:12]), first, int(length[1])
