#!/usr/bin/env bash
# Whether BI tools show what Microsoft served. A known history, with an outage, corrections and a re-issue, goes in through
# the program itself; Superset, dbt and a JDBC driver then read it with the login of docs/queries.md, and the stand-in for
# Microsoft says what is right.
#
# Installs what it needs on Debian. The Python packages (1 GB) and a picture of Superset's dashboard stay in target/bi; everything
# else is gone afterwards. Not part of `make test`: the first time it downloads for some minutes.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

programs=$(realpath -m "${CARGO_TARGET_DIR:-target}")
packages=$programs/bi

# The Python packages of scripts/bi/NAME.txt, in target/bi/NAME.
python_packages() {
    local wanted=scripts/bi/$1.txt venv=$packages/$1
    if cmp -s "$wanted" "$venv/installed.txt"; then return; fi
    step "installing scripts/bi/$1.txt into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" --quiet --disable-pip-version-check install -r "$wanted"
    cp "$wanted" "$venv/installed.txt"
}

if [ "${1:-}" != with-database ]; then
    need_cargo
    scripts/install-deps.sh python3-venv jdbc browser
    python_packages superset
    python_packages dbt
    step "building"
    SQLX_OFFLINE=true cargo build --locked --workspace --all-features --bins
    exec scripts/test-db.sh run scripts/test-bi.sh with-database
fi

server=${DATABASE_URL%/*}
psql=$(pg_bin)/psql
[ -x "$psql" ] || psql=psql
sql() { "$psql" -qXAt -v ON_ERROR_STOP=1 "$server/$1" "${@:2}"; }
secret() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

work=$(mktemp -d)
running=()
# shellcheck disable=SC2329 # the trap calls it
tidy() {
    for process in ${running[@]+"${running[@]}"}; do kill "$process" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Runs a command; where it fails, shows what it wrote.
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2 && fail "$*"; }; }

# Waits for a file or an answer, at most two minutes.
await() {
    for _ in $(seq 240); do
        if "${@:2}" >/dev/null 2>&1; then return; fi
        sleep 0.5
    done
    [ ! -s "$work/$1.log" ] || tail -n 40 "$work/$1.log" >&2
    fail "$1 does not start"
}

shown=()
part() {
    local began=$SECONDS
    step "$1"
    "$2"
    shown+=("$(printf '%4s s  %s' "$((SECONDS - began))" "$1")")
}

history() {
    local config=$work/config.toml sim
    "$programs/debug/graph-sim" --tenants 2 --no-throttle --env-file /dev/null --config-file "$config" >"$work/graph-sim.log" 2>&1 &
    running+=($!)
    await graph-sim test -s "$config"
    sim=$(sed -n 's/^base_url = "\(.*\)"$/\1/p' "$config")
    DATABASE_URL=$server/m365 quietly python3 scripts/bi/history.py "$sim" "$work/truth.json" -- \
        "$programs/debug/m365-ledger" once --config "$config"
    say "$(sql m365 -c "SELECT count(*) || ' snapshots of ' || count(DISTINCT tenant_id) || ' tenants' FROM m365_store.snapshot")"
}

# As docs/queries.md tells the owner of the database to do.
reader() {
    printf '%s\n' "$password" >"$work/password"
    sql m365 -v login=bi -v password_file="$work/password" -f deploy/reader.sql >&2
    sql m365 -c "SELECT 'the login bi: ' || array_to_string(rolconfig, ', ') FROM pg_roles WHERE rolname = 'bi'" >&2
}

superset() {
    local port
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    sql postgres -c 'CREATE DATABASE superset'
    SUPERSET_SECRET_KEY=$(secret)
    SUPERSET_PASSWORD=$(secret)
    export SUPERSET_SECRET_KEY SUPERSET_PASSWORD FLASK_APP=superset SUPERSET_HOME=$work/superset
    export SUPERSET_METADATA=postgresql${server#postgres}/superset SUPERSET_CONFIG_PATH=$PWD/scripts/bi/superset_config.py
    export SUPERSET_URL=http://127.0.0.1:$port
    quietly "$packages/superset/bin/superset" db upgrade
    quietly "$packages/superset/bin/superset" fab create-admin --username admin --firstname Ad --lastname Min \
        --email admin@localhost --password "$SUPERSET_PASSWORD"
    quietly "$packages/superset/bin/superset" init
    "$packages/superset/bin/gunicorn" --workers 2 --bind "127.0.0.1:$port" 'superset.app:create_app()' >"$work/superset.log" 2>&1 &
    running+=($!)
    await superset curl -fsS "$SUPERSET_URL/health"
    "$packages/superset/bin/python" scripts/bi/superset_check.py "$work/truth.json" "$bi" || {
        tail -n 20 "$work/superset.log" >&2
        fail "Superset does not show what was served"
    }
    "$packages/superset/bin/python" scripts/bi/superset_page.py "$work/truth.json" "$packages/superset.png" ||
        fail "the dashboard is not drawn; what is to be seen is in $packages/superset.png"
}

dbt() { "$packages/dbt/bin/dbt" --no-use-colors "$@" --project-dir "$work/dbt" --profiles-dir "$work/dbt"; }

dbt_sources() {
    mkdir -p "$work/dbt/models"
    cp bi/dbt/sources.yml "$work/dbt/models/"
    printf 'name: check\nprofile: m365\nflags: {send_anonymous_usage_stats: false}\n' >"$work/dbt/dbt_project.yml"
    # bi is postgres://USER:PASSWORD@HOST:PORT/DATABASE.
    sed -E 's#^.*//(.*):(.*)@(.*):(.*)/(.*)$#m365: {target: reader, outputs: {reader: {type: postgres, schema: m365_v1, user: \1, password: "\2", host: \3, port: \4, dbname: \5, threads: 2}}}#' \
        <<<"$bi" >"$work/dbt/profiles.yml"
    quietly dbt source freshness --select source:m365
    grep -o '[0-9]* of [0-9]* PASS freshness of [a-z0-9._]*' "$work/log" >&2
    quietly dbt test --select source:m365
    grep -o 'Done\. PASS=.*' "$work/log" >&2

    # The same files on a ledger where nothing succeeded for 73 hours.
    sql m365 -c "CREATE SCHEMA stale" -c "GRANT USAGE ON SCHEMA stale TO m365_reader" -c "CREATE VIEW stale.freshness AS
        SELECT last_success_at - interval '73 hours' AS last_success_at, text 'stale' AS state FROM m365_v1.freshness" \
        -c "GRANT SELECT ON stale.freshness TO m365_reader"
    sed -i 's/^    schema: m365_v1$/    schema: stale/' "$work/dbt/models/sources.yml"
    ! dbt source freshness --select source:m365.freshness >"$work/log" || fail "dbt calls 73 hours without a success fresh"
    grep -o 'ERROR STALE freshness of [a-z0-9._]*' "$work/log" >&2
    ! dbt test --select source:m365.freshness >"$work/log" || fail "dbt finds nothing wrong with a stale target"
    grep -o 'FAIL [0-9]* source_accepted_values[a-z0-9_]*' "$work/log" >&2
}

jdbc() {
    java -cp /usr/share/java/postgresql.jar scripts/bi/Columns.java "jdbc:postgresql:${bi_host}?user=bi&password=$password" >"$work/jdbc"
    # The views of the golden file; a driver tells of functions in other ways.
    awk '/^[^\t]/ { view = /^view / } view' tests/golden/m365_v1.txt >"$work/golden"
    diff "$work/golden" "$work/jdbc" >&2 || fail "a JDBC driver tells something else (>) than tests/golden/m365_v1.txt (<)"
    say "$(grep -c '^view' "$work/jdbc") views with $(grep -c '^	' "$work/jdbc") columns: types and remarks are those of tests/golden/m365_v1.txt"
}

password=$(secret)
bi_host=//${server##*@}/m365
bi=postgres://bi:$password@${bi_host#//}
sql postgres -c 'CREATE DATABASE m365'
part "a known history, fetched by the program" history
part "a reader's login, by docs/queries.md" reader
part "Superset: bi/superset imported; figures by day, week, as of a day; writes refused; dashboard drawn" superset
part "dbt: freshness and tests of bi/dbt/sources.yml; both can fail" dbt_sources
part "JDBC: types and comments of every column" jdbc
printf '\nmake test-bi: PASSED\n'
printf '%s\n' "${shown[@]}"
