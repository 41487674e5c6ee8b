#!/usr/bin/env bash
# A team's cache: two proxies share what they have stored over Redis, and a purge reaches both.
. "$(dirname "$0")/start.sh"

REDIS=${REDIS:-redis://localhost}
start --origin "$ORIGIN" --store "$REDIS" --redis-prefix "recipe-$$:"
one=$url
start --origin "$ORIGIN" --store "$REDIS" --redis-prefix "recipe-$$:"
two=$url
url=$one
echo "one asks:"
shown /products/1
url=$two
echo "the other one has it:"
until shown /products/1 | tee "$folder/answer" | grep -q HIT; do sleep 0.1; done
cat "$folder/answer"
"$PROXY" --clear-cache --store "$REDIS" --redis-prefix "recipe-$$:"
