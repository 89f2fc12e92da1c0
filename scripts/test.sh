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
