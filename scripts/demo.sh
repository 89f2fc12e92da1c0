#!/usr/bin/env bash
# From a fresh clone to the running system, without a tenant: builds the program with its stand-in for Microsoft, and
# runs `m365-ledger demo` with a PostgreSQL of its own.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_cargo
scripts/install-deps.sh
step "building (a few minutes the first time)"
export SQLX_OFFLINE=true
cargo build --locked --profile demo --features demo --bin m365-ledger </dev/null
# `cargo run` knows where cargo puts its programs, and becomes the program.
exec cargo run --locked --quiet --profile demo --features demo --bin m365-ledger -- demo "$@"
