#!/usr/bin/env bash
# Deletes the data of the program's own PostgreSQL for this folder. Asks first; YES=1 is the answer.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

sha256() { if have sha256sum; then sha256sum; else shasum -a 256; fi; }
wanted=$PWD/m365-ledger-data
# Where the data goes when root works in a folder that only root may enter.
elsewhere=/var/lib/m365-ledger/$(printf %s "$wanted" | sha256 | cut -c1-16)

found=
for folder in "$wanted" "$elsewhere"; do
    [ -f "$folder/README" ] && [ -d "$folder/cluster" ] || continue
    found=1
    if have flock && ! flock -n "$folder/users.lock" true; then
        fail "m365-ledger is running on $folder: stop it first"
    fi
    if [ "${YES:-}" != 1 ]; then
        [ -t 0 ] || fail "this deletes every figure in $folder. To do so: make clean-db YES=1"
        read -r -p "Delete every figure in $folder? Type yes: " answer
        [ "$answer" = yes ] || fail "nothing was deleted"
    fi
    # A server that a killed program left behind.
    if bin=$(pg_bin); then
        (cd / && as_pg "$bin/pg_ctl" stop -m fast -w -D "$folder/cluster" >/dev/null 2>&1) || true
    fi
    rm -rf "$folder"
    say "deleted $folder"
done
[ -n "$found" ] || say "there is no data here"
