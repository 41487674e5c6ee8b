"""What the benchmarks have in common: servers on one core, wrk on the other, tables of Markdown.

Part of scripts/bench and scripts/bench-stores; knows none of the servers that are compared.
"""

import contextlib
import glob
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import typing

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CANNED = os.path.join(ROOT, "target/release/examples/canned")
QUICK = "--quick" in sys.argv
BESIDE = sys.argv[sys.argv.index("--beside") + 1] if "--beside" in sys.argv else None
BUILT = os.path.join(ROOT, "target/release/proxy")
BINARY = sys.argv[sys.argv.index("--binary") + 1] if "--binary" in sys.argv else BUILT
PEERS = ("nginx", "haproxy", "varnish")
ROUNDS, SECONDS = (1, 1) if QUICK else (5, 2)


def build(*targets):
    subprocess.run(["cargo", "build", "--release", "--quiet", *targets], cwd=ROOT, check=True)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def pinned(core, *command):
    """A process on one core; it ends with this program."""
    process = subprocess.Popen(["taskset", "-c", str(core), *command], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return process


def family(pid):
    """The process, and those that it and its children have started."""
    todo = [pid]
    while todo:
        pid = todo.pop()
        yield pid
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as children:
                    todo += [int(child) for child in children.read().split()]


def end(process):
    """Ends the process and its children. One that has children is asked first: a master of nginx that is
    killed leaves its workers behind, to run on or unburied. One that has none may take its time to finish
    what it is doing, and is killed."""
    if process.poll() is None:
        pids = list(family(process.pid))
        if len(pids) > 1:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
        for pid in pids if process.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def wait_for(port, what):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
    sys.exit(f"{what} does not listen on port {port}")


class Server:
    """One of those that are compared."""

    def __init__(self, name, command, port, paths=True):
        self.name, self.command, self.port, self.paths = name, command, port, paths
        self.process = None

    def start(self):
        self.process = pinned(0, *self.command)
        wait_for(self.port, self.name)

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def end(self):
        end(self.process)

    def processes(self):
        return family(self.process.pid)

    def memory(self):
        """Bytes that its processes have of their own, and their share of what they have in common."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
                total += 1024 * int(re.search(r"Pss:\s+(\d+)", rollup.read()).group(1))
        return total

    def cpu(self):
        """Seconds of processor time that its processes have used."""
        ticks = 0
        for pid in self.processes():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
                ticks += sum(int(number) for number in stat.read().rsplit(")", 1)[1].split()[11:13])
        return ticks / os.sysconf("SC_CLK_TCK")

    def switches(self):
        """Context switches of its threads: because they waited, and because something else was to run."""
        sums = {"voluntary_ctxt_switches": 0, "nonvoluntary_ctxt_switches": 0}
        for pid in self.processes():
            for task in glob.glob(f"/proc/{pid}/task/*/status"):
                with contextlib.suppress(OSError), open(task, encoding="utf-8") as lines:
                    for name, value in (line.split(":", 1) for line in lines):
                        if name in sums:
                            sums[name] += int(value)
        return tuple(sums.values())

    def threads(self):
        return sum(len(glob.glob(f"/proc/{pid}/task/*")) for pid in self.processes())


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def nginx_conf(folder, name, http):
    paths = "".join(f"{kind}_temp_path {folder}/{name}-{kind}; " for kind in
                    ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.getuid() == 0 else ""
    return write(f"{folder}/{name}.conf", f"""{user} daemon off; worker_processes 1; pid {folder}/{name}.pid;
error_log {folder}/{name}.log crit; worker_rlimit_nofile 16384; events {{ worker_connections 12000; }}
http {{ access_log off; {paths} keepalive_requests 1000000000; keepalive_timeout 300; sendfile on; {http} }}""")


def haproxy_conf(folder, name, port, behind, cached=True, backend="", server="", process="", mebibytes=256,
                 object_bytes_max=20_000_000):
    """`backend` and `server` are added to the section and the line of these names, `process` to the first section."""
    backend += "\n  http-request cache-use all\n  http-response cache-store all" if cached else ""
    return write(f"{folder}/{name}.cfg", f"""global
  maxconn 8000
  nbthread 1
  {process}
defaults
  mode http
  timeout client 300s
  timeout server 60s
  timeout connect 5s
cache all
  total-max-size {mebibytes}
  max-object-size {object_bytes_max}
  max-age 3600
frontend clients
  bind 127.0.0.1:{port}
  default_backend origin
backend origin
  {backend}
  server origin 127.0.0.1:{behind} {server}
""")


class Load(typing.NamedTuple):
    """What came of some seconds of load; of several rounds, the medians and the sum of the errors."""
    rate: float  # requests a second
    late: float  # the 99th percentile, in milliseconds
    speed: float  # bytes a second
    used: float  # microseconds of processor time that the server used for each request
    waits: float  # context switches of the server for each request, because it waited,
    preempted: float  # and because something else was to run
    requests: int
    errors: int  # responses that were no 200s, and requests without a response
    limited: bool  # the load's core was full, and the server's was not


def wrk(server, connections, path, script=None, under=()):
    """Load on the server from the other core, by a wrk that the command `under` starts."""
    begun, idle, cpu, switches = time.monotonic(), idle_seconds(1), server.cpu(), server.switches()
    command = ["taskset", "-c", "1", *under, "wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency"]
    command += ["-s", script] if script else []
    text = subprocess.run([*command, f"http://127.0.0.1:{server.port}{path}"], capture_output=True, text=True).stdout
    seconds, used = time.monotonic() - begun, server.cpu() - cpu
    waits, preempted = (after - before for before, after in zip(switches, server.switches()))
    value = lambda pattern: (re.search(pattern, text) or [None, "0", ""])
    scale = {"us": 1e-3, "ms": 1, "s": 1e3, "": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    late = value(r"99%\s+([\d.]+)(us|ms|s)")
    speed = value(r"Transfer/sec:\s+([\d.]+)([KMG]?)B")
    requests = int(value(r"(\d+) requests in")[1])
    each = max(requests, 1)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    return Load(rate=float(value(r"Requests/sec:\s+([\d.]+)")[1]), late=float(late[1]) * scale[late[2]],
                speed=float(speed[1]) * scale[speed[2]], used=used * 1e6 / each, waits=waits / each,
                preempted=preempted / each, requests=requests,
                errors=int(value(r"Non-2xx or 3xx responses: (\d+)")[1])
                + sum(int(number) for number in (errors.groups() if errors else ())),
                limited=idle_seconds(1) - idle < 0.05 * seconds and used < 0.9 * seconds)


def idle_seconds(core):
    """For how long the core had nothing to do, or nothing that would not make way (nice)."""
    with open("/proc/stat", encoding="ascii") as stat:
        line = next(line for line in stat if line.startswith(f"cpu{core} "))
    _, _, nice, _, idle = line.split()[:5]
    return (int(nice) + int(idle)) / os.sysconf("SC_CLK_TCK")


def in_turns(all_servers, connections, path, script=None, prepare=None, rounds=ROUNDS):
    """By name, what came of the same load on each of them; `prepare` is called with each before its turn."""
    turns = {server.name: [] for server in all_servers}
    for _ in range(rounds):
        for server in all_servers:
            if prepare:
                prepare(server)
            turns[server.name].append(wrk(server, connections, path, script))
    middle = lambda loads: Load(*(statistics.median(numbers) for numbers in zip(*loads)))
    return {name: middle(loads)._replace(errors=sum(load.errors for load in loads)) for name, loads in turns.items()}


def fetch(server, path):
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        while client.recv(1 << 20):
            pass


class Table:
    """Rows of Markdown: what each server did, and what ours did beside the others."""

    def __init__(self, all_servers, title):
        self.names = [server.name for server in all_servers]
        self.canned = "canned bytes" in self.names
        columns = [title, *self.names, "to the best peer"] + ["to canned bytes"] * self.canned
        print()
        self.print(columns)
        self.print(["---"] * len(columns))

    def print(self, cells):
        print(f"| {' | '.join(cells)} |", flush=True)

    def row(self, what, values, shown, better=max):
        """`values` by name, None for what could not be measured; the best peer is what `better` says."""
        ours = values["proxy"]
        peers = [value for name, value in values.items() if name in PEERS and value is not None]
        beside = lambda other: f"{ours / other:.2f}" if other and ours is not None else ""
        cells = [shown(name, values[name]) if name in values else "" for name in self.names]
        cells.append(beside(better(peers)) if peers else "")
        self.print([what, *cells] + [beside(values.get("canned bytes"))] * self.canned)
