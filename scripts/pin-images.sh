#!/usr/bin/env bash
# The digests of the Dockerfile's base images: what was looked at is what is built on, whatever the names lead to later.
#
#   scripts/pin-images.sh          asks the registry what the names mean today, and writes it into the Dockerfile
#   scripts/pin-images.sh check    fails where a base has no digest; asks nobody
#
# Asks with docker's buildx, crane or skopeo, whichever is there.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

file=${DOCKERFILE:-Dockerfile}
kinds=(BUILD RUNTIME)
setting() { sed -n "s/^ARG $1=//p" "$file"; }

# The digest of the list of all architectures.
digest_of() {
    if have docker && docker buildx version >/dev/null 2>&1; then
        docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$1"
    elif have crane; then
        crane digest "$1"
    elif have skopeo; then
        printf 'sha256:%s\n' "$(skopeo inspect --raw "docker://$1" | sha256sum | cut -d ' ' -f 1)"
    else
        fail "docker with buildx, crane or skopeo is needed to ask a registry"
    fi
}

case "${1:-}" in
check)
    for kind in "${kinds[@]}"; do
        [[ $(setting "${kind}_DIGEST") =~ ^sha256:[0-9a-f]{64}$ ]] ||
            fail "$file: $(setting "${kind}_IMAGE") is not pinned. Run scripts/pin-images.sh where the registry can be reached, and commit"
    done
    ;;
"")
    for kind in "${kinds[@]}"; do
        image=$(setting "${kind}_IMAGE")
        digest=$(digest_of "$image")
        [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || fail "$image: the registry's answer is no digest: $digest"
        sed -i.before "s/^ARG ${kind}_DIGEST=.*/ARG ${kind}_DIGEST=$digest/" "$file"
        rm -f "$file.before"
        say "$image is $digest"
    done
    ;;
*)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}" >&2
    exit 64
    ;;
esac
