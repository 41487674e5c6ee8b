#!/usr/bin/env bash
# A paid API: each answer is asked for at most once an hour, whoever has the key, and over restarts.
. "$(dirname "$0")/start.sh"

start --origin "$ORIGIN" --store "sqlite:$folder/cache.db" --share-credentials --cache-ttl 1h --origin-rate 10/s
echo "the first client pays:"
shown /products/1 -H "Authorization: Bearer one"
echo "the next one does not:"
shown /products/1 -H "Authorization: Bearer two"
