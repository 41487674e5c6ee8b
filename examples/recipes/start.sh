# shellcheck shell=bash
# For the recipes beside it, which read it with `.`: starts proxies, and ends them with the script.
#
# ORIGIN is the origin server (https://dummyjson.com), PROXY the program (proxy).
set -euo pipefail

ORIGIN=${ORIGIN:-https://dummyjson.com}
PROXY=${PROXY:-proxy}
folder=$(mktemp -d)
# What `proxy stats`, `purge` and the others look for is that of this script alone.
export XDG_RUNTIME_DIR=$folder
started=()

finish() {
    [ "${#started[@]}" -eq 0 ] || kill "${started[@]}" 2>/dev/null || true
    wait
    rm -rf "$folder"
}
trap finish EXIT

# start FLAGS...: starts a proxy on a free port; its address is in $url then.
start() {
    local ready=$folder/ready${#started[@]}
    "$PROXY" --port 0 --ready-file "$ready" --log-level warn "$@" >/dev/null &
    started+=($!)
    until [ -s "$ready" ]; do
        kill -0 "${started[-1]}" || exit 1
        sleep 0.05
    done
    url=$(cat "$ready")
    case $url in http://*) ;; *) url=http://$url ;; esac
}

# shown PATH [CURL FLAGS...]: asks for it; prints status, X-Cache and Cache-Status.
shown() {
    local path=$1
    shift
    curl -s -o /dev/null -D - "$@" "$url$path" | tr -d '\r' | grep -iE '^(HTTP|X-Cache|Cache-Status)'
}
