#!/usr/bin/env bash
# A PostgreSQL to develop against. It stays until `scripts/test-db.sh stop`; what it holds may be lost at any time.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
scripts/install-deps.sh
url=$(scripts/test-db.sh start)
say "It runs until: scripts/test-db.sh stop"
printf 'export DATABASE_URL=%s\n' "$url"
