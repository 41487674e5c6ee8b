"""The servers that a trace is replayed through, each with the same bytes for its cache.

Part of scripts/bench (`--hits-of`); replay.py asks them. Each is bounded as tightly as it lets itself be, and stores
responses as large as it can. What is missing is left out, loudly.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import typing

from measure import BESIDE, BINARY, Server, fetch, free_port, haproxy_conf, nginx_conf, write
from uncached import left_out

MEBIBYTE = 1 << 20
# Policies that weigh how long the origin server takes. It makes the others not wait, which would change nothing of
# what they store.
WEIGH_TIME = ("cost",)


class Entrant(typing.NamedTuple):
    name: str
    weighs_time: bool
    make: typing.Callable  # the server, from the port of the origin server


def entrants(policies, peers, folder, memory):
    """What takes part, in the order of the table."""
    for binary, label in ((BINARY, "proxy"), (BESIDE, "other build")):
        for policy in policies if binary else ():
            name = f"{label}, {policy}"
            if knows(binary, policy):
                make = lambda behind, own=(name, binary, policy): proxy(*own, memory, behind)
                yield Entrant(name, policy in WEIGH_TIME, make)
            else:
                left_out(name, "this build has no such policy")
    makers = {"nginx": Nginx, "haproxy": haproxy, "varnish": varnish}
    for name in peers:
        if shutil.which("varnishd" if name == "varnish" else name):
            yield Entrant(name, False, lambda behind, name=name: makers[name](folder, memory, behind))
        else:
            left_out(name, "it is not installed")


def knows(binary, policy):
    """Whether the help names the policy."""
    text = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True).stdout
    words = re.search(r"--eviction-policy .*\n?.*", text)[0]
    return policy in re.findall(r"[\w-]+", words.split(":", 1)[-1])


def proxy(name, binary, policy, memory, behind):
    port = free_port()
    return Server(name, [binary, "--port", str(port), "--origin", f"http://127.0.0.1:{behind}", "--threads", "1",
                         "--log-level", "off", "--max-object-size", "16M", "--cache-memory", str(memory),
                         "--eviction-policy", policy], port)


class Nginx(Server):
    """Its bound is kept promptly, which takes some doing: its cache manager looks every 10 s, unless it has left
    something to remove. So a second cache, of empty files, always has too many, and one is removed at each look.

    The files of the cache lie in memory (tmpfs) where the machine has any, and count as memory."""

    BACKLOG, LOOKS_MS = 500, 10

    def __init__(self, folder, memory, behind):
        self.folder, self.filled = f"{folder}/nginx", 0
        os.makedirs(self.folder, exist_ok=True)
        port, own = free_port(), free_port()
        # 128 bytes for each key, and a file takes 4 KiB at least: enough for all, and part of the memory.
        keys = memory // 24 >> 12 << 12
        conf = nginx_conf(folder, "nginx", f"""
            proxy_cache_path {self.folder}/cache keys_zone=cache:{keys} max_size={memory - keys} inactive=1d
            use_temp_path=off manager_files=1000000 manager_threshold=10s manager_sleep={self.LOOKS_MS}ms;
            proxy_cache_path {self.folder}/backlog keys_zone=backlog:512k max_size=4k inactive=1d use_temp_path=off
            manager_files=1 manager_sleep={self.LOOKS_MS}ms;
            upstream origin {{ server 127.0.0.1:{behind}; keepalive 64; keepalive_requests 1000000000; }}
            server {{ listen 127.0.0.1:{own}; add_header Cache-Control max-age=86400; return 200 "x"; }}
            server {{ listen 127.0.0.1:{port}; proxy_http_version 1.1; proxy_set_header Connection "";
            location / {{ proxy_pass http://origin; proxy_cache cache; }}
            location /backlog/ {{ proxy_pass http://127.0.0.1:{own}; proxy_cache backlog; }} }}""")
        super().__init__("nginx", ["nginx", "-p", folder, "-c", conf], port)

    def start(self):
        super().start()
        self.tend()
        # A new cache manager looks at once, and goes on looking, since there is a backlog.
        old = set(self.processes()) - {self.process.pid}
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while old & set(self.processes()) or self.backlog() == self.BACKLOG:
            if time.monotonic() > deadline:
                sys.exit("nginx: its cache manager removes nothing, so that its cache would have no bound")
            time.sleep(0.01)

    def backlog(self):
        return len(os.listdir(f"{self.folder}/backlog"))

    def tend(self):
        """Fills the backlog up; to be called more often than once in BACKLOG looks."""
        missing = self.BACKLOG - self.backlog()
        if missing == self.BACKLOG and self.filled:
            left_out("the bound of nginx, for some seconds", "it has removed all of the backlog")
        for number in range(self.filled, self.filled + missing):
            fetch(self, f"/backlog/{number}")
        self.filled += missing

    def memory(self):
        self.tend()
        blocks = 0
        for name in os.listdir(f"{self.folder}/cache"):
            with contextlib.suppress(FileNotFoundError):
                blocks += os.stat(f"{self.folder}/cache/{name}").st_blocks
        return super().memory() + 512 * blocks

    def end(self):
        super().end()
        shutil.rmtree(self.folder)


def haproxy(folder, memory, behind):
    port = free_port()
    # Half of the whole is the largest that it may store.
    conf = haproxy_conf(folder, "haproxy", port, behind, mebibytes=memory // MEBIBYTE, object_bytes_max=memory // 2)
    return Server("haproxy", ["haproxy", "-f", conf], port)


def varnish(folder, memory, behind):
    port = free_port()
    # What is too large to be stored would be cut: it is passed on, by way of Transient. Half of the whole is the
    # limit, as with HAProxy.
    vcl = write(f"{folder}/varnish.vcl", f"""vcl 4.1;
        import std;
        backend default {{ .host = "127.0.0.1"; .port = "{behind}"; }}
        sub vcl_backend_response {{
            if (std.integer(beresp.http.Content-Length, 0) > {memory // 2}) {{
                set beresp.uncacheable = true;
                set beresp.ttl = 0s;
            }}
        }}""")
    # However many small responses make way for a large one; and the log is no part of the cache.
    parameters = ("timeout_idle=300", "nuke_limit=1000000", "vsl_space=1m")
    flags = [word for parameter in parameters for word in ("-p", parameter)]
    return Server("varnish", ["varnishd", "-F", "-a", f"127.0.0.1:{port}", "-f", vcl, "-s", f"malloc,{memory}",
                              "-s", "Transient=malloc,16m", "-n", f"{folder}/varnish", *flags], port)
