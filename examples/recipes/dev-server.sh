#!/usr/bin/env bash
# A development server: only what it says itself is cached, and for the rest the proxy says why it is not.
. "$(dirname "$0")/start.sh"

start --origin "$ORIGIN" --default-ttl 0
shown /products/1
shown /products/1
"$PROXY" explain /products/1
