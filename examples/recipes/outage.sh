#!/usr/bin/env bash
# The origin server goes away: what is stored stands in, and nobody waits for it.
. "$(dirname "$0")/start.sh"

# Another proxy is the origin server here, so that it can go away.
start --origin "$ORIGIN"
front=$url
start --origin "$front" --cache-ttl 1s
echo "while it is there:"
shown /products/1
kill "${started[0]}"
wait "${started[0]}" || true
sleep 1.5
echo "when it is gone, and the response is stale:"
shown /products/1
