#!/usr/bin/env bash
# Whether what deploy/ holds is sound, without an engine, a cluster or a tenant: the alert rules and their tests, metric
# names in rules and dashboards, manifests and chart as kubectl and helm render them, the Dockerfile, docker-compose.yml
# with every profile, the systemd unit, the workflows, and the links of the documentation.
#
#   scripts/check-deploy.sh         checks; installs its tools first: tools.sh, and Debian's prometheus for promtool
#   scripts/check-deploy.sh --if-possible   does nothing where the tools are missing and only root could install them
#   scripts/check-deploy.sh write   renews the copies of the alert rules in the chart and for Kubernetes
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if ! scripts/install-deps.sh promtool || ! tools=$(scripts/tools.sh); then
    [ "${1:-}" = --if-possible ] || exit 1
    step "deploy/: SKIPPED, its tools cannot be installed here"
    exit 0
fi
# They keep caches where this says, and nowhere else.
export HELM_CACHE_HOME=$tools/cache HELM_CONFIG_HOME=$tools/cache HELM_DATA_HOME=$tools/cache
export PYTHONDONTWRITEBYTECODE=1

if [ "${1:-}" = write ]; then
    exec "$tools/bin/python" scripts/check_deploy write
fi

step "alert rules"
promtool check config --syntax-only deploy/prometheus/prometheus.yml
promtool check rules deploy/prometheus/rules.yml
promtool test rules deploy/prometheus/rules_test.yml

step "deploy/"
renderers=("$tools"/renderers/*)
[ -d "${renderers[0]}" ] || renderers=()
"$tools/bin/python" scripts/check_deploy check ${renderers[@]+"${renderers[@]}"}

if have systemd-analyze; then
    step "systemd unit"
    unit=$tools/m365-ledger.service
    # The program is not installed here. systemd only warns of a directive that it does not know.
    sed 's|^ExecStart=[^ ]*|ExecStart=/bin/true|' deploy/systemd/m365-ledger.service >"$unit"
    warnings=$(systemd-analyze verify --man=no "$unit" 2>&1) || fail "systemd-analyze: $warnings"
    ! grep -F m365-ledger.service <<<"$warnings" >&2 || fail "systemd-analyze warns"
    # Tenths of its measure of exposure: 0 is locked up, 100 is open.
    systemd-analyze security --offline=true --threshold=20 "$unit" >/dev/null || fail "the unit is less locked up than it was"
else
    step "systemd unit: SKIPPED, there is no systemd-analyze"
fi

step "workflows"
"$tools/bin/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
"$tools/bin/check-jsonschema" --builtin-schema vendor.dependabot .github/dependabot.yml
"$tools/bin/zizmor" --offline --quiet .github >&2

step "Dockerfile"
"$tools/bin/hadolint" Dockerfile

step "pinning of the base images, by an invented registry"
# What pin-images.sh makes of a registry's answer.
stub=$tools/stub
mkdir -p "$stub"
printf '#!/bin/sh\ncase "$*" in *inspect*) echo "sha256:%s" ;; esac\n' "$(printf x | sha256sum | cut -d ' ' -f 1)" >"$stub/docker"
chmod +x "$stub/docker"
sed 's/^\(ARG [A-Z]*_DIGEST\)=.*/\1=/' Dockerfile >"$stub/Dockerfile"
if DOCKERFILE=$stub/Dockerfile scripts/pin-images.sh check 2>/dev/null; then fail "pin-images.sh takes bases without a digest"; fi
PATH=$stub:$PATH DOCKERFILE=$stub/Dockerfile scripts/pin-images.sh
DOCKERFILE=$stub/Dockerfile scripts/pin-images.sh check
[ "$(diff Dockerfile "$stub/Dockerfile" | grep -c '^>')" = 2 ] || fail "pin-images.sh changed other lines"
"$tools/bin/hadolint" "$stub/Dockerfile"

step "docker-compose.yml"
"$tools/bin/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml
# It asks for podman's version even where nothing is to be run.
printf '#!/bin/sh\necho podman version 4.3.1\n' >"$tools/podman"
chmod +x "$tools/podman"
compose() {
    case "$1" in
    podman-compose) "$tools/bin/podman-compose" --podman-path "$tools/podman" "${@:2}" ;;
    docker-compose) docker-compose "${@:2}" ;;
    docker) docker compose "${@:2}" ;;
    esac
}
composers=(podman-compose)
if have docker-compose; then composers+=(docker-compose); fi
if have docker && docker compose version >/dev/null 2>&1; then composers+=(docker); fi
for composer in "${composers[@]}"; do
    for profile in ledger demo bi monitoring; do
        services=$(compose "$composer" --profile "$profile" config 2>&1) || fail "$composer, profile $profile: $services"
        case "$profile" in
        ledger) service=m365-ledger ;;
        demo) service=graph-sim ;;
        bi) service=grafana ;;
        monitoring) service=prometheus ;;
        esac
        grep -q "^  $service:" <<<"$services" || fail "$composer: profile $profile has no service $service"
    done
    say "$composer: every profile can be read"
done
