#!/usr/bin/env bash
# A throw-away PostgreSQL: own folder, own port on 127.0.0.1, own password, not durable (fsync off).
#
#   scripts/test-db.sh start [FOLDER]   starts it and prints its URL; a running one is kept
#   scripts/test-db.sh url [FOLDER]     prints the URL of the running one
#   scripts/test-db.sh stop [FOLDER]    stops it and removes all of it
#   scripts/test-db.sh run COMMAND…     runs a command with DATABASE_URL set, in a server that is gone afterwards
#
# Without a FOLDER it is the development server of `make db`. The role may create databases, as #[sqlx::test] wants.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A folder for temporary things that the account of the server may enter.
temporary() {
    local folder=${TMPDIR:-/tmp}
    as_pg test -x "$folder" 2>/dev/null || folder=/tmp
    printf '%s\n' "${folder%/}"
}

running() { [ -f "$1/url" ] && as_pg "$bin/pg_ctl" status -D "$1/cluster" >/dev/null 2>&1; }

start() {
    local folder=$1 password port try
    if running "$folder"; then
        cat "$folder/url"
        return
    fi
    if [ -e "$folder" ] && [ ! -O "$folder" ] && [ "$(id -u)" != 0 ]; then
        fail "$folder belongs to somebody else"
    fi
    rm -rf "$folder"
    mkdir -m 700 "$folder"
    password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    (umask 077 && printf '%s\n' "$password" >"$folder/password")
    [ "$(id -u)" != 0 ] || chown -R "$(pg_account):" "$folder"
    as_pg "$bin/initdb" -D "$folder/cluster" -U postgres --pwfile "$folder/password" --auth scram-sha-256 \
        --encoding UTF8 --locale C --no-sync >"$folder/initdb.log" 2>&1 || { cat "$folder/initdb.log" >&2 && fail "initdb failed"; }
    as_pg tee -a "$folder/cluster/postgresql.conf" >/dev/null <<END
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
fsync = off
synchronous_commit = off
full_page_writes = off
timezone = 'UTC'
END
    for try in 1 2 3 4 5 6 7 8 9 10; do
        port=$((20000 + (RANDOM + try) % 12000))
        if as_pg "$bin/pg_ctl" start -w -t 60 -D "$folder/cluster" -l "$folder/log" -o "-p $port" </dev/null >/dev/null 2>&1
        then
            printf 'postgres://postgres:%s@127.0.0.1:%s/postgres\n' "$password" "$port" >"$folder/url"
            chmod 600 "$folder/url"
            cat "$folder/url"
            return
        fi
    done
    tail -n 20 "$folder/log" >&2
    fail "the throw-away PostgreSQL does not start"
}

stop() {
    local folder=$1
    [ -d "$folder/cluster" ] || return 0
    as_pg "$bin/pg_ctl" stop -m immediate -w -D "$folder/cluster" >/dev/null 2>&1 || true
    rm -rf "$folder"
}

command=${1:-}
[ $# -eq 0 ] || shift
bin=$(pg_bin) || fail "PostgreSQL is not installed: scripts/install-deps.sh installs it"
export LC_ALL=C
# pg_ctl wants a folder it may stand in.
here=$PWD

case "$command" in
start | stop | url)
    folder=${1:-$(temporary)/m365-ledger-dev-$(id -u)}
    case "$folder" in /*) ;; *) folder=$here/$folder ;; esac
    cd /
    case "$command" in
    start) start "$folder" ;;
    stop) stop "$folder" ;;
    url) if running "$folder"; then cat "$folder/url"; else fail "there is none in $folder"; fi ;;
    esac
    ;;
run)
    [ $# -gt 0 ] || fail "run what?"
    folder=$(mktemp -d "$(temporary)/m365-ledger-test.XXXXXX")
    trap 'cd / && stop "$folder"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    DATABASE_URL=$(cd / && start "$folder")
    export DATABASE_URL
    cd "$here"
    "$@"
    ;;
*)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}" >&2
    exit 64
    ;;
esac
