#!/usr/bin/env python3
"""A trace as an API's clients might leave one: a request a line, `id size cost`, the cost in milliseconds of the
origin server's time. The same seed gives the same trace, and a shorter one is the beginning of a longer one.

    scripts/synthetic_trace.py SEED [REQUESTS]

Two thirds ask for one of 20,000 responses, some of which are far more popular than others (Zipf, 0.8), and the
order of their popularity shifts. The others come in scans, and ask for what nobody asks for again.
"""

import bisect
import itertools
import math
import random
import sys

REQUESTS, POPULAR, ALPHA = 60_000, 20_000, 0.8
# After so many requests for popular responses, two of them change their ranks.
REQUESTS_A_SHIFT = 10
# A scan begins at one request in 200 and has 100 on average: a third of all.
SCAN_BEGINS, SCAN_LENGTHS = 1 / 200, (10, 190)
SIZE_MEDIAN, SIZE_SIGMA = 2048, 1.2
LARGE_SHARE, LARGE_SIZES = 0.01, (100 << 10, 2 << 20)
COST_MEDIAN, COST_SIGMA, COST_WITH_SIZE = 40, 1, 0.3


def trace(seed, requests=REQUESTS):
    """Tuples of id, bytes and milliseconds."""
    source = random.Random(seed)
    known, by_rank = {}, list(range(POPULAR))
    weights = list(itertools.accumulate((rank + 1) ** -ALPHA for rank in range(POPULAR)))
    scan, next_scanned = 0, POPULAR
    for number in range(requests):
        if not scan and source.random() < SCAN_BEGINS:
            scan = source.randint(*SCAN_LENGTHS)
        if scan:
            scan -= 1
            name, next_scanned = next_scanned, next_scanned + 1
        else:
            if number % REQUESTS_A_SHIFT == 0:
                one, other = source.randrange(POPULAR), source.randrange(POPULAR)
                by_rank[one], by_rank[other] = by_rank[other], by_rank[one]
            name = by_rank[bisect.bisect_left(weights, source.random() * weights[-1])]
        if name not in known:
            known[name] = size_and_cost(source)
        yield (name, *known[name])


def size_and_cost(source):
    if source.random() < LARGE_SHARE:
        size = math.exp(source.uniform(*map(math.log, LARGE_SIZES)))
    else:
        size = SIZE_MEDIAN * math.exp(SIZE_SIGMA * source.gauss(0, 1))
    # A larger response takes a little longer to make.
    large = COST_WITH_SIZE * math.log(size / SIZE_MEDIAN) / SIZE_SIGMA
    own = math.sqrt(1 - COST_WITH_SIZE ** 2) * source.gauss(0, 1)
    return max(int(size), 1), round(COST_MEDIAN * math.exp(COST_SIGMA * (large + own)), 2)


def main():
    if not 2 <= len(sys.argv) <= 3 or not all(word.isdigit() for word in sys.argv[1:]):
        print("synthetic_trace.py: expected SEED [REQUESTS], both numbers", file=sys.stderr)
        sys.exit(2)
    for name, size, cost in trace(*map(int, sys.argv[1:])):
        print(name, size, f"{cost:.2f}")


if __name__ == "__main__":
    main()
