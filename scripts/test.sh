#!/usr/bin/env bash
# Everything that must hold before a change is merged. The last line says whether it does.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [ "${1:-}" != with-database ]; then
    began=$SECONDS
    # shellcheck disable=SC2329 # the trap calls it
    verdict() {
        local code=$?
        if [ "$code" = 0 ]; then
            printf '\nmake test: PASSED in %s s\n' "$((SECONDS - began))"
        else
            printf '\nmake test: FAILED (exit code %s); the reason is above\n' "$code"
        fi
        exit "$code"
    }
    trap verdict EXIT
    need_cargo
    scripts/install-deps.sh
    # Where there is no browser to be had, say so: the tests in it are then left out.
    if [ -n "${M365_LEDGER_TEST_WITHOUT_BROWSER:-}" ]; then
        step "tests in a browser: LEFT OUT, because M365_LEDGER_TEST_WITHOUT_BROWSER is set"
    else
        scripts/install-deps.sh browser || fail "without a browser the status page cannot be tried. Install what is said above, or
    set M365_LEDGER_TEST_WITHOUT_BROWSER=1 to leave those tests out"
    fi
    without=
    if ! scripts/install-deps.sh pgbouncer; then
        step "tests with PgBouncer: SKIPPED, it cannot be installed here"
        without='--skip pooler::'
    fi
    export without
    scripts/lint.sh
    scripts/check-deploy.sh --if-possible
    scripts/test-db.sh run scripts/test.sh with-database
    exit
fi

export SQLX_OFFLINE=true
step "build"
cargo build --locked --workspace --all-features
step "tests"
# shellcheck disable=SC2086 # two words or none
cargo test --locked --workspace --all-features --lib --bins --tests -- ${without:-}
step "documentation tests"
cargo test --locked --workspace --all-features --doc
step ".sqlx"
scripts/sqlx.sh check
