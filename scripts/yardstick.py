"""What policies attain where nothing but content takes memory: libCacheSim on a trace, offline.

Part of scripts/bench (`--yardstick`). The sizes are those of the content alone, without heads, keys and bookkeeping:
a server attains a little less with the same policy. What is larger than the cache is never stored; S3-FIFO and
W-TinyLFU do not store what is larger than their small queue or window, either. Belady knows the future: it is near
the best that a policy attains which does not look at sizes, and Belady by size near the best object hit ratio.

As a program, it runs in an environment that has libcachesim, reads `id size cost` a line, and prints what each
policy missed, as JSON.
"""

import json
import os
import subprocess
import sys

from measure import ROOT

VERSION = "0.3.5"
POLICIES = {"LRU": "LRU", "S3-FIFO": "S3FIFO", "W-TinyLFU": "WTinyLFU", "GDSF": "GDSF", "Belady": "Belady",
            "Belady by size": "BeladySize"}
NEVER = 1 << 62


def interpreter():
    """A Python that has libcachesim, installed if need be; or None, and why."""
    folder = os.path.join(ROOT, "target/yardstick")
    python = f"{folder}/bin/python"
    has_it = [python, "-c", "import libcachesim"]
    if os.path.exists(python) and subprocess.run(has_it, capture_output=True, check=False).returncode == 0:
        return python, None
    print(f"bench: installing libcachesim {VERSION} into {folder}", file=sys.stderr)
    install = [python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", f"libcachesim=={VERSION}"]
    for command in ([sys.executable, "-m", "venv", folder], install, has_it):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
            return None, f"`{' '.join(command[-3:])}` says: {last}"
    return python, None


def missed(python, requests, memory):
    """By policy, the sums of requests, bytes and cost over what it missed."""
    numbers = {}
    lines = (f"{numbers.setdefault(request.name, len(numbers))} {request.size} {request.cost}" for request in requests)
    done = subprocess.run([python, os.path.abspath(__file__), str(memory)], input="\n".join(lines),
                          stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main():
    import libcachesim

    rows = [tuple(map(int, line.split())) for line in sys.stdin]
    following = next_uses(rows)
    sums = {}
    for name, policy in POLICIES.items():
        # The table has 65,536 chains; as many as the default would take longer than the trace.
        cache = getattr(libcachesim, policy)(cache_size=int(sys.argv[1]), hashpower=16)
        sums[name] = {"requests": 0, "bytes": 0, "cost": 0}
        for time, ((number, size, cost), following_use) in enumerate(zip(rows, following)):
            request = libcachesim.Request(obj_id=number, obj_size=size, clock_time=time,
                                          next_access_vtime=following_use)
            if not cache.get(request):
                sums[name]["requests"] += 1
                sums[name]["bytes"] += size
                sums[name]["cost"] += cost
    json.dump(sums, sys.stdout)


def next_uses(rows):
    """For each request, when the same is asked for again."""
    uses, seen = [NEVER] * len(rows), {}
    for time in range(len(rows) - 1, -1, -1):
        number = rows[time][0]
        uses[time] = seen.get(number, NEVER)
        seen[number] = time
    return uses


if __name__ == "__main__":
    main()
