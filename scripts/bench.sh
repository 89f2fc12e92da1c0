#!/usr/bin/env bash
# Measures the release build, each figure side by side with what it is to be compared with: the same machine, the same
# run, the same PostgreSQL (its own, thrown away afterwards, with the durability a user has), in turns, medians.
#
#   scripts/bench.sh [TENANTS] [ROUNDS]     1000 and 3 unless told; what it measures is explained in its table
#
# A target that is missed is said and fails nothing: figures depend on the machine.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The builds to measure can be others than those of this tree: to compare two versions.
LEDGER=${LEDGER:-target/release/m365-ledger}
SIM=${SIM:-target/release/graph-sim}
FETCH_ONLY=${FETCH_ONLY:-target/release/examples/fetch_only}

if [ "${1:-}" != with-database ]; then
    need_cargo
    scripts/install-deps.sh
    step "release build"
    SQLX_OFFLINE=true cargo build --locked --release --workspace --bins --examples
    # Through a folder of its own, so that an interrupted run leaves nothing behind either.
    exec scripts/test-db.sh run scripts/bench.sh with-database "$@"
fi
shift
tenants=${1:-1000}
rounds=${2:-3}
repetitions=10
export LC_ALL=C

bin=$(pg_bin)
tmp=$(mktemp -d "${TMPDIR:-/tmp}/m365-ledger-bench.XXXXXX")
children=()
cleanup() {
    local child
    for child in ${children[@]+"${children[@]}"}; do kill "$child" 2>/dev/null || true; done
    wait
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

server=$DATABASE_URL
unset DATABASE_URL
url() { printf '%s/%s' "${server%/*}" "$1"; }
sql() { "$bin/psql" -qXAt -v ON_ERROR_STOP=1 "$@"; }

# ---- measuring -------------------------------------------------------------------------------------------------------

now_us() {
    local now=${EPOCHREALTIME:-$(date +%s).000000}
    printf '%s' "${now/./}"
}

# The memory of a process in KiB, at its highest or now; 0 where there is no /proc.
memory() { awk -v name="$2:" '$1 == name { print $2; found = 1 } END { if (!found) print 0 }' "/proc/$1/status" 2>/dev/null || true; }

# timed NAME COMMAND…: appends the milliseconds it took to NAME.ms, and its highest memory in KiB to NAME.kib.
timed() {
    local name=$1 began child peak=0 seen
    shift
    began=$(now_us)
    "$@" >"$tmp/out" 2>&1 &
    child=$!
    if [ "${watched:-}" = yes ]; then
        while seen=$(memory "$child" VmHWM) && [ "${seen:-0}" != 0 ]; do
            peak=$seen
            sleep 0.1
        done
    fi
    wait "$child" || { cat "$tmp/out" >&2 && fail "$name failed"; }
    awk -v a="$began" -v b="$(now_us)" 'BEGIN { printf "%.1f\n", (b - a) / 1000 }' >>"$tmp/$name.ms"
    echo "$peak" >>"$tmp/$name.kib"
}

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
highest() { sort -n "$1" | tail -n 1; }
seconds() { awk -v ms="$1" 'BEGIN { printf ms < 1000 ? "%.0f ms" : "%.2f s", ms < 1000 ? ms : ms / 1000 }'; }
mib() { awk -v kib="$1" 'BEGIN { if (kib > 0) printf "%.1f MiB", kib / 1024; else printf "-" }'; }

# What is printed in the end, line by line.
lines=()
missed=0
row() { lines+=("$(printf '%-44s %12s %12s %8s %10s  %s' "$@")"); }
verdict() {
    if awk -v is="$1" -v most="$2" 'BEGIN { exit !(is <= most) }'; then echo met; else echo MISSED; fi
}
# against TITLE OURS THEIRS MOST: medians of two series of times, and what their ratio may be.
against() {
    local ours theirs ratio met
    ours=$(median "$tmp/$2.ms") theirs=$(median "$tmp/$3.ms")
    ratio=$(awk -v a="$ours" -v b="$theirs" 'BEGIN { printf "%.2f", a / b }')
    met=$(verdict "$ratio" "$4")
    [ "$met" = met ] || missed=$((missed + 1))
    row "$1" "$(seconds "$ours")" "$(seconds "$theirs")" "$ratio" "<= $4" "$met"
}
# bounded TITLE KIB MOST_MIB
bounded() {
    local met
    met=$(verdict "$2" $(($3 * 1024)))
    [ "$met" = met ] || missed=$((missed + 1))
    row "$1" "$(mib "$2")" - - "<= $3 MiB" "$met"
}

# ---- the two sides ---------------------------------------------------------------------------------------------------

# A stand-in for Microsoft with so many tenants; its settings file is $tmp/NAME.toml.
stand_in() {
    "$SIM" --tenants "$2" --no-throttle --refresh-date "$(date -u +%F -d '2 days ago' 2>/dev/null || date -u -v-2d +%F)" \
        --config-file "$tmp/$1.toml" --env-file "$tmp/$1.env" >"$tmp/$1.log" 2>&1 &
    children+=($!)
    local try
    for try in $(seq 100); do
        [ ! -s "$tmp/$1.env" ] || return 0
        sleep 0.1
    done
    cat "$tmp/$1.log" >&2
    fail "the stand-in does not start (try $try)"
}

fresh_database() { sql "$(url postgres)" -c "DROP DATABASE IF EXISTS $1" -c "CREATE DATABASE $1 TEMPLATE bench_empty"; }
# Every contender starts with nothing left to be written by the server.
settle() { sql "$(url postgres)" -c CHECKPOINT; }
# In place of the shell that calls it, whose memory would be measured otherwise.
once() { exec env DATABASE_URL="$(url "$1")" M365_LEDGER__LOG__FILTER=warn "$LEDGER" once --config "$tmp/$2.toml"; }

columns="office_365, exchange, onedrive, sharepoint, skype_for_business, yammer, teams"
# A table with the key and the columns of the facts, without the rest of the ledger.
plain_facts="CREATE TABLE plain_facts (LIKE m365_store.office365_active_user_counts INCLUDING ALL)"
upsert="ON CONFLICT (tenant_id, report_date, report_refresh_date, report_period) DO UPDATE SET
    ($columns, fetched_at) = (excluded.${columns//, /, excluded.}, excluded.fetched_at)"

by_psql() {
    sql "$(url "$1")" <<END
CREATE TEMPORARY TABLE staging (LIKE plain_facts);
\\copy staging FROM '$tmp/rows.csv' (FORMAT csv)
INSERT INTO plain_facts SELECT * FROM staging $upsert;
END
}

# The same work for one tenant, as one would write it on a Friday: curl and psql.
by_script() {
    local period token link
    # shellcheck disable=SC1090,SC1091
    . "$tmp/one.env"
    token=$(curl -sf "$M365_LEDGER__GRAPH__LOGIN_URL/$M365_LEDGER__TENANT__ID/oauth2/v2.0/token" \
        -d grant_type=client_credentials -d scope=https://graph.microsoft.com/.default \
        -d client_id="$M365_LEDGER__TENANT__CLIENT_ID" --data-urlencode client_secret="$M365_LEDGER__TENANT__CLIENT_SECRET" |
        sed 's/.*"access_token":"\([^"]*\)".*/\1/')
    for period in D180 D90 D30 D7; do
        link=$(curl -sf -o /dev/null -w '%{redirect_url}' -H "Authorization: Bearer $token" \
            "$M365_LEDGER__GRAPH__BASE_URL/v1.0/reports/getOffice365ActiveUserCounts(period='$period')")
        curl -sf -o "$tmp/$period.csv" "$link"
    done
    sql "$(url "$1")" <<END
CREATE TEMPORARY TABLE staging (report_refresh_date date, office_365 bigint, exchange bigint, onedrive bigint,
    sharepoint bigint, skype_for_business bigint, yammer bigint, teams bigint, report_date date, report_period smallint);
\\copy staging FROM '$tmp/D180.csv' (FORMAT csv, HEADER)
\\copy staging FROM '$tmp/D90.csv' (FORMAT csv, HEADER)
\\copy staging FROM '$tmp/D30.csv' (FORMAT csv, HEADER)
\\copy staging FROM '$tmp/D7.csv' (FORMAT csv, HEADER)
INSERT INTO plain_facts (tenant_id, report_date, report_refresh_date, report_period, $columns, fetched_at)
SELECT '$M365_LEDGER__TENANT__ID', report_date, report_refresh_date, report_period, $columns, now() FROM staging $upsert;
END
}

# ---- the run ---------------------------------------------------------------------------------------------------------

began=$SECONDS
step "preparing $tenants tenants"
# The throw-away server of the tests is not durable; this one is to be what a user has.
sql "$(url postgres)" -c "ALTER SYSTEM SET fsync = on" -c "ALTER SYSTEM SET synchronous_commit = on" \
    -c "ALTER SYSTEM SET full_page_writes = on" -c "SELECT pg_reload_conf()" -c "CREATE DATABASE bench_empty" >/dev/null
stand_in many "$tenants"
stand_in one 1
DATABASE_URL=$(url bench_empty) "$LEDGER" migrate --config "$tmp/one.toml" >/dev/null
sql "$(url bench_empty)" -c "$plain_facts"
# Nothing of this is timed: the stand-in makes up its reports once, the rows are written down for psql, and the memory is
# watched, which takes time of its own.
fresh_database bench
watched=yes timed memory once bench many
sql "$(url bench)" -c "\\copy m365_store.office365_active_user_counts TO '$tmp/rows.csv' (FORMAT csv)"
rows=$(wc -l <"$tmp/rows.csv")
watched=yes timed memory once bench many

for round in $(seq "$rounds"); do
    step "many tenants, round $round of $rounds"
    fresh_database bench
    settle
    timed once once bench many
    settle
    timed again once bench many
    timed fetch_only "$FETCH_ONLY" "$tmp/many.toml"
    fresh_database bench
    settle
    timed psql by_psql bench
done

step "one tenant, $repetitions times"
for _ in $(seq "$repetitions"); do
    fresh_database bench
    timed one_script by_script bench
    fresh_database bench
    timed one once bench one
done

step "the service, idle"
fresh_database bench
DATABASE_URL=$(url bench) M365_LEDGER__HTTP__LISTEN=127.0.0.1:0 M365_LEDGER__LOG__FILTER=warn \
    "$LEDGER" run --config "$tmp/one.toml" >"$tmp/run.log" 2>&1 &
service=$!
children+=("$service")
for _ in $(seq 100); do
    [ "$(sql "$(url bench)" -c "SELECT count(*) FROM m365_store.attempt")" != 4 ] || break
    sleep 0.2
done
sleep 20
idle=$(memory "$service" VmRSS)

[ "$(sql "$(url bench)" -c "SELECT count(*) FROM m365_store.attempt")" = 4 ] || { cat "$tmp/run.log" >&2 && fail "run"; }
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
printf '\n%s cores%s, %s, %s; default settings, fsync on\n' "$(getconf _NPROCESSORS_ONLN)" "${cpu:+ ($cpu)}" \
    "$("$bin/postgres" --version)" "$(uname -sm)"
printf '%s tenants x 4 periods = %s rows; medians of %s rounds in turns, of %s for one tenant\n\n' \
    "$tenants" "$rows" "$rounds" "$repetitions"
row "" m365-ledger "the other" ratio target ""
against "all new: once / psql \\copy + upsert of the rows" once psql 1.7
against "unchanged: once / the downloads alone" again fetch_only 1.5
against "one tenant: once / curl + psql script" one one_script 1.0
bounded "most memory of once" "$(highest "$tmp/memory.kib")" 64
bounded "memory of the idle service" "$idle" 20
printf '%s\n' "${lines[@]}"
printf '\nall times in ms, in the order measured:\n'
for name in once psql again fetch_only one one_script; do printf '  %-11s %s\n' "$name" "$(paste -sd' ' "$tmp/$name.ms")"; done
printf '\n%s of 5 targets missed; measured in %s s\n' "$missed" "$((SECONDS - began))"
