#!/usr/bin/env bash
# Tests without a network: what a proxy has stored is exported, imported elsewhere, and replayed.
. "$(dirname "$0")/start.sh"

start --origin "$ORIGIN"
shown /products/1
"$PROXY" export "$folder/api.har"
kill "${started[@]}"
wait
started=()

"$PROXY" import "$folder/api.har" --origin "$ORIGIN" --store "sqlite:$folder/ci.db"
start --origin "$ORIGIN" --store "sqlite:$folder/ci.db" --cache-mode offline
echo "replayed:"
shown /products/1
echo "what was not recorded is an error:"
shown /products/2
