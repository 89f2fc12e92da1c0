# shellcheck shell=bash
# Shared by the scripts of this folder; sourced, not run. Goes to the root of the repository.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "error: $*"
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
step() { printf '\n==> %s\n' "$*" >&2; }

# rustup puts cargo where a shell without a login does not look.
if ! have cargo && [ -x "${CARGO_HOME:-${HOME:-/root}/.cargo}/bin/cargo" ]; then
    PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
    export PATH
fi

need_cargo() {
    have cargo || fail "Rust is not installed. Get it from https://rustup.rs:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
}

# The folder of PostgreSQL's server programs, on stdout.
pg_bin() {
    local folder newest
    folder=$(pg_config --bindir 2>/dev/null || true)
    if [ -n "$folder" ] && [ -x "$folder/initdb" ]; then
        printf '%s\n' "$folder"
        return
    fi
    if have initdb; then
        dirname "$(command -v initdb)"
        return
    fi
    newest=$(for folder in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin \
        /usr/local/opt/postgresql*/bin; do
        if [ -x "$folder/initdb" ]; then printf '%s\n' "$folder"; fi
    done | sort -V | tail -n 1)
    [ -n "$newest" ] && printf '%s\n' "$newest"
}

# Runs a command as the account that may run PostgreSQL: ourselves, or, for root, `postgres` or `nobody`.
pg_account() {
    if [ "$(id -u)" != 0 ]; then
        id -un
    elif id postgres >/dev/null 2>&1; then
        echo postgres
    else
        echo nobody
    fi
}

as_pg() {
    if [ "$(id -u)" != 0 ]; then
        "$@"
    elif have setpriv; then
        setpriv --reuid "$(pg_account)" --regid "$(id -g "$(pg_account)")" --clear-groups -- "$@"
    else
        runuser -u "$(pg_account)" -- "$@"
    fi
}
