#!/usr/bin/env bash
# Formatting, clippy without a warning, and the rules on dependencies. What is not installed is left out, visibly.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_cargo
export SQLX_OFFLINE=true

if cargo fmt --version >/dev/null 2>&1; then
    step "rustfmt"
    cargo fmt --all --check
else
    step "rustfmt: SKIPPED, it is not installed (rustup component add rustfmt)"
fi
if cargo clippy --version >/dev/null 2>&1; then
    step "clippy"
    cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
else
    step "clippy: SKIPPED, it is not installed (rustup component add clippy)"
fi
if cargo deny --version >/dev/null 2>&1; then
    step "cargo deny"
    cargo deny --offline check bans licenses sources
else
    step "cargo deny: SKIPPED, it is not installed (cargo install --locked cargo-deny)"
fi
if tools=$(scripts/tools.sh); then
    step "shellcheck"
    "$tools/bin/shellcheck" scripts/*.sh scripts/*/*.sh .ci/run
else
    step "shellcheck: SKIPPED, Python with venv and pip is needed to install it"
fi
