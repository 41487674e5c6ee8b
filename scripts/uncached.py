"""Misses: what every exchange with the origin server costs, beside the peers.

Part of scripts/bench. `uncached` is about responses that are not stored, over connections that the origin
server keeps alive, plain and TLS; `stored_misses` is about responses that are, each new. Neither reports a
rate that the load has limited without saying so.
"""

import contextlib
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time

from measure import (BESIDE, BINARY, QUICK, Server, Table, end, free_port, haproxy_conf, in_turns, nginx_conf,
                     pinned, wait_for, write, wrk)

CONNECTIONS = (1, 64) if QUICK else (1, 8, 64, 512)
# Where the load is the limit, the requests a second say little: the processor time is what is left over.
LIMITED = "`*`: the load's core was full and the server's was not; compare the processor time."


def stored_misses(running, folder):
    """Each URL is new and its response is stored."""
    script = write(f"{folder}/unique.lua", """local n = 0
local seed = tostring(os.time()) .. math.random(1000000)
request = function() n = n + 1; return wrk.format("GET", "/m/" .. seed .. "/" .. n) end""")
    table = Table(running, "misses of 1 KiB that are stored")
    loads = [rows(table, count, in_turns(running, count, "", script)) for count in (1, 64)]
    explain(loads)


def uncached(folder):
    """Nothing is stored: the origin server says `no-store`."""
    certificate = self_signed(folder)
    behind, ports = origin(folder, certificate)
    try:
        for scheme, port in ports.items():
            beside_peers(folder, scheme, port)
    finally:
        end(behind)
    if not certificate:
        left_out("an https origin", "no openssl to make its certificate")


def beside_peers(folder, scheme, port):
    running = []
    try:
        for server in servers(folder, scheme, port):
            running.append(server)
            server.start()
        table, loads = Table(running, f"1 KiB that is not stored, {scheme} origin"), []
        for count in CONNECTIONS:
            prepare = lambda server: connect_ahead(server, count)
            loads.append(rows(table, count, in_turns(running, count, "/", prepare=prepare)))
            own = [server for server in running if server.command[0] in (BINARY, BESIDE)]
            calls = {server.name: system_calls(server, count, folder) for server in own}
            table.row("the same: system calls for each", calls, lambda _, value: few(value) or "LEFT OUT")
        explain(loads)
        if None in calls.values():
            left_out("system calls", "neither perf stat -e raw_syscalls:sys_enter nor strace -c works here")
    finally:
        for server in running:
            server.end()


def rows(table, count, loads):
    """What `count` connections got, and what it cost."""
    def figure(what, name, shown, better=min):
        # A server that has answered nothing has no figures, good or bad.
        values = {server: getattr(load, name) if load.requests else None for server, load in loads.items()}
        table.row(what, values, lambda server, value: "FAILED" if value is None else shown(server, value), better)

    def rate(server, value):
        load = loads[server]
        return f"{value:,.0f}" + "*" * bool(load.limited) + f" ({load.errors} ERRORS)" * bool(load.errors)

    figure(f"{count} connection{'s' * (count > 1)}: requests a second", "rate", rate, max)
    figure("the same: 99th percentile, ms", "late", lambda _, value: few(value))
    figure("the same: processor time for each, µs", "used", lambda _, value: few(value))
    # No ratio: those of the peers are next to nothing.
    table.row("the same: context switches for each, having waited + displaced", dict.fromkeys(loads),
              lambda server, _: f"{loads[server].waits:.2f} + {loads[server].preempted:.2f}")
    return loads


def few(value):
    return "" if value is None else f"{value:.2f}"


def explain(loads):
    if any(load.limited for by_name in loads for load in by_name.values()):
        print(f"\n{LIMITED}", flush=True)


def left_out(what, why):
    print(f"\n**LEFT OUT: {what}: {why}**", flush=True)
    print(f"bench: LEFT OUT: {what}: {why}", file=sys.stderr)


def self_signed(folder):
    """A certificate and its key, in one file; None without openssl."""
    if not shutil.which("openssl"):
        return None
    file = f"{folder}/origin.pem"
    # P-256, so that handshakes are a small part of the first second.
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", "2", "-subj", "/CN=localhost", "-keyout", file, "-out", f"{file}.crt"],
                   check=True, capture_output=True)
    with open(f"{file}.crt", encoding="ascii") as issued, open(file, "a", encoding="ascii") as both:
        both.write(issued.read())
    return file


def origin(folder, certificate):
    """The process of the origin server, and its ports by scheme."""
    ports = {"http": free_port()}
    listen = f"listen 127.0.0.1:{ports['http']};"
    if certificate:
        ports["https"] = free_port()
        listen += f"""listen 127.0.0.1:{ports['https']} ssl; ssl_certificate {certificate};
            ssl_certificate_key {certificate};"""
    conf = nginx_conf(folder, "uncached-origin", f"""server {{ {listen} default_type text/plain;
        location / {{ add_header Cache-Control no-store; return 200 "{'x' * 1024}"; }} }}""")
    process = pinned(1, "nginx", "-p", folder, "-c", conf)
    wait_for(ports["http"], "the origin server")
    return process, ports


def servers(folder, scheme, behind):
    """Ours has its cache, the peers have none: nothing is compared but the way there and back. Nobody
    verifies the certificate."""
    tls = scheme == "https"
    ours = ["--origin", f"{scheme}://127.0.0.1:{behind}", "--log-level", "off", "--idle-timeout", "300"]
    ours += ["--insecure"] if tls else []
    port = free_port()
    yield Server("proxy", [BINARY, "--port", str(port), *ours, "--threads", "1"], port)
    if BESIDE:
        port = free_port()
        yield Server("other build", [BESIDE, "--port", str(port), *ours], port)
    if shutil.which("nginx"):
        port = free_port()
        conf = nginx_conf(folder, f"nginx-{scheme}", f"""
            upstream origin {{ server 127.0.0.1:{behind}; keepalive 512; keepalive_requests 1000000000; }}
            server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {scheme}://origin;
            proxy_http_version 1.1; proxy_set_header Connection ""; }} }}""")
        yield Server("nginx", ["nginx", "-p", folder, "-c", conf], port)
    if shutil.which("haproxy"):
        port = free_port()
        conf = haproxy_conf(folder, f"haproxy-{scheme}", port, behind, cached=False, backend="http-reuse always",
                            server="pool-purge-delay 60s" + " ssl verify none" * tls)
        yield Server("haproxy", ["haproxy", "-f", conf], port)


def connect_ahead(server, count):
    """So many requests at once, so that the handshakes with the origin server are over before the load."""
    selector = selectors.DefaultSelector()
    clients = []
    try:
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", server.port))
            clients.append(client)
            selector.register(client, selectors.EVENT_READ)
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deadline, waiting = time.monotonic() + 5, count
        while waiting and time.monotonic() < deadline:
            for key, _ in selector.select(0.5):
                piece = key.fileobj.recv(1 << 16)
                if not piece or piece.endswith(b"x" * 512):
                    selector.unregister(key.fileobj)
                    waiting -= 1
    finally:
        selector.close()
        for client in clients:
            client.close()


def system_calls(server, count, folder):
    """System calls of the server for each request, in a run of its own; None if nothing can count them."""
    pids = [str(pid) for pid in server.processes()]
    output = write(f"{folder}/calls", "")
    if can("perf", "stat", "-e", "raw_syscalls:sys_enter", "--", "true"):
        under = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", ",".join(pids), "-o", output, "--"]
        load = wrk(server, count, "/", under=under)
        pattern = r"(?m)^(\d+),"
    elif can("strace", "-c", "true"):
        # This one slows the server down; the calls for each request remain much the same.
        counting = subprocess.Popen(["strace", "-f", "-c", "-o", output, *(f"-p{pid}" for pid in pids)],
                                    stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        load = wrk(server, count, "/")
        counting.send_signal(signal.SIGINT)
        counting.wait()
        pattern = r"(?m)^100\.00\s+\S+\s+\S+\s+(\d+).*total$"
    else:
        return None
    with contextlib.suppress(OSError), open(output, encoding="utf-8") as report:
        if counted := re.search(pattern, report.read()):
            return int(counted[1]) / max(load.requests, 1)
    return None


def can(*command):
    """Does this work here?"""
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False
