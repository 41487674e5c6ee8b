"""Large bodies, beside the peers: bytes a second and 99th percentiles.

Part of scripts/bench. Hits come from memory, in nginx's case from its files; what is not stored passes through,
from an nginx with `sendfile` on the load's core, over connections that it keeps alive.

wrk reads one connection for as long as there is something to read: the faster a server is, the longer the others
wait for wrk. So there is a 99th percentile by curl as well, which takes from each connection in turn.
"""

import os
import shutil
import statistics
import subprocess

from measure import (BESIDE, BINARY, QUICK, ROUNDS, Server, Table, end, fetch, free_port, haproxy_conf, in_turns,
                     nginx_conf, pinned, wait_for, write)
from uncached import LIMITED, left_out

SIZES = (("100 KiB", 100 << 10), ("1 MiB", 1 << 20), ("10 MiB", 10 << 20))
CONNECTIONS = (8,) if QUICK else (8, 64)
# Bytes that curl fetches from each server in a round.
BY_CURL = (64 if QUICK else 512) << 20


def large(folder):
    """One table of hits, and one of what is not stored."""
    behind, port = origin(folder)
    running = []
    try:
        for server in servers(folder, port):
            running.append(server)
            server.start()
        for title, where in (("hits", "stored"), ("not stored", "passing")):
            table = Table(running, f"{title}, MiB/s (99th percentile, ms)")
            for what, size in SIZES:
                for count in CONNECTIONS:
                    row(table, running, f"{what}, {count} connections", (f"/{where}/{size}", count))
                    if shutil.which("curl"):
                        late = late_by_curl(running, f"/{where}/{size}", (count, BY_CURL // size))
                        table.row("the same: 99th percentile by curl, ms", late, lambda _, value: f"{value:.1f}", min)
        print(f"\n{LIMITED}", flush=True)
        if not shutil.which("curl"):
            left_out("99th percentiles by curl", "there is no curl")
    finally:
        for server in running:
            server.end()
        end(behind)


def row(table, running, what, load):
    """The bytes a second, and then the processor time for each of them."""
    path, count = load
    for server in running:
        fetch(server, path)
    loads = in_turns(running, count, path)
    speeds = {name: load.speed / (1 << 20) for name, load in loads.items()}

    def shown(name, speed):
        limited, errors = "*" * bool(loads[name].limited), loads[name].errors
        return f"{speed:,.0f}{limited} ({loads[name].late:.1f})" + f" ({errors} ERRORS)" * bool(errors)

    table.row(what, speeds, shown)
    used = {name: load.used * load.rate / load.speed * (1 << 20) for name, load in loads.items() if load.requests}
    table.row("the same: processor time for each MiB, µs", {**dict.fromkeys(loads), **used},
              lambda _, value: "FAILED" if value is None else f"{value:,.0f}", min)


def late_by_curl(running, path, load):
    """By name, what a hundredth of the transfers exceeds in the middle one of the rounds."""
    count, transfers = load
    late = {server.name: [] for server in running}
    for _ in range(ROUNDS):
        for server in running:
            each = [f"http://127.0.0.1:{server.port}{path}", "-o", os.devnull] * transfers
            command = ["taskset", "-c", "1", "curl", "-s", "-Z", "--parallel-max", str(count), "-w", "%{time_total}\n"]
            text = subprocess.run([*command, *each], capture_output=True, text=True, check=True).stdout
            times = sorted(float(line) * 1000 for line in text.split())
            late[server.name].append(times[len(times) * 99 // 100])
    return {name: statistics.median(rounds) for name, rounds in late.items()}


def origin(folder):
    """An nginx that sends files, and its port."""
    os.mkdir(f"{folder}/sizes")
    for _, size in SIZES:
        write(f"{folder}/sizes/{size}", "x" * size)
    port = free_port()
    conf = nginx_conf(folder, "large-origin", f"""server {{ listen 127.0.0.1:{port}; default_type text/plain;
        location /stored/ {{ alias {folder}/sizes/; add_header Cache-Control max-age=3600; }}
        location /passing/ {{ alias {folder}/sizes/; add_header Cache-Control no-store; }} }}""")
    process = pinned(1, "nginx", "-p", folder, "-c", conf)
    wait_for(port, "the origin server")
    return process, port


def servers(folder, behind):
    ours = ["--origin", f"http://127.0.0.1:{behind}", "--log-level", "off", "--max-object-size", "16M",
            "--cache-memory", "256M", "--idle-timeout", "300"]
    port = free_port()
    yield Server("proxy", [BINARY, "--port", str(port), *ours, "--threads", "1"], port)
    if BESIDE:
        port = free_port()
        yield Server("other build", [BESIDE, "--port", str(port), *ours, "--threads", "1"], port)
    if shutil.which("nginx"):
        port = free_port()
        # What passes is sent as it comes: left to itself, nginx would write to a file what a client does not take.
        conf = nginx_conf(folder, "nginx-large", f"""proxy_cache_path {folder}/large-cache keys_zone=all:1m;
            upstream origin {{ server 127.0.0.1:{behind}; keepalive 64; keepalive_requests 1000000000; }}
            proxy_http_version 1.1; proxy_set_header Connection "";
            server {{ listen 127.0.0.1:{port};
            location /stored/ {{ proxy_cache all; proxy_pass http://origin; }}
            location /passing/ {{ proxy_max_temp_file_size 0; proxy_pass http://origin; }} }}""")
        yield Server("nginx", ["nginx", "-p", folder, "-c", conf], port)
    if shutil.which("haproxy"):
        port = free_port()
        # Without a bound it wants descriptors for more pipes than are permitted here.
        conf = haproxy_conf(folder, "haproxy-large", port, behind, backend="option splice-auto", process="maxpipes 256")
        yield Server("haproxy", ["haproxy", "-f", conf], port)
    if shutil.which("varnishd"):
        port = free_port()
        yield Server("varnish", ["varnishd", "-F", "-a", f"127.0.0.1:{port}", "-b", f"127.0.0.1:{behind}",
                                 "-s", "malloc,256m", "-n", f"{folder}/varnish-large", "-p", "timeout_idle=300"], port)
