#!/usr/bin/env bash
# The descriptions of our SQL statements in .sqlx, from a database with all migrations. They let the program compile
# without a database. Needs DATABASE_URL: a server on which a database may be created.
#
#   scripts/sqlx.sh write   renews .sqlx
#   scripts/sqlx.sh check   says whether .sqlx is what the code and the migrations make of it
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_cargo
: "${DATABASE_URL:?is not set: run this through scripts/test-db.sh run}"
psql=$(pg_bin)/psql
[ -x "$psql" ] || psql=psql

# A database of its own beside the one named in DATABASE_URL.
database=m365_ledger_sqlx_$$
url=${DATABASE_URL%/*}/$database
fresh=$(mktemp -d)
cleanup() {
    rm -rf "$fresh"
    "$psql" -qX "$DATABASE_URL" -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" >/dev/null 2>&1 || true
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
"$psql" -qX -v ON_ERROR_STOP=1 "$DATABASE_URL" -c "CREATE DATABASE $database"
for migration in migrations/*.sql; do
    [ -e "$migration" ] || continue
    case "$migration" in *.down.sql) continue ;; esac
    whole=--single-transaction
    if head -n 1 "$migration" | grep -q '^-- no-transaction'; then whole=; fi
    PGOPTIONS='-c client_min_messages=warning' "$psql" -qX -v ON_ERROR_STOP=1 ${whole:+"$whole"} -f "$migration" "$url"
done

# The statements are written down while the compiler expands them: make it look at every file anew.
find src/lib.rs src/main.rs src/bin tests benches examples -maxdepth 1 -name '*.rs' -exec touch {} + 2>/dev/null || true
mkdir "$fresh/sqlx"
SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$fresh/sqlx" DATABASE_URL="$url" \
    cargo check --locked --quiet --all-targets --all-features </dev/null

case "${1:-}" in
write)
    rm -rf .sqlx
    mkdir .sqlx
    cp -R "$fresh/sqlx/." .sqlx/
    say ".sqlx holds $(find .sqlx -name 'query-*.json' | wc -l | tr -d ' ') statements"
    ;;
check)
    mkdir -p "$fresh/empty"
    committed=.sqlx
    [ -d .sqlx ] || committed=$fresh/empty
    diff -r "$committed" "$fresh/sqlx" || fail ".sqlx is not up to date. Run \`make sqlx\` and commit the result"
    ;;
*) fail "write or check?" ;;
esac
