#!/usr/bin/env bash
# Builds the image from the very Dockerfile and tries it in an engine: the whole of docker-compose.yml's profile demo.
#
# For Debian 12 as root. Needs no registry of images: the three base images are stand-ins made from Debian's packages and
# this machine's Rust. Uses the engine that runs here, or starts one of its own and stops it at the end. All of it lives in
# one folder, target/container by default (M365_CONTAINER_DIR), where --keep leaves images and build cache for the next time.
#
# It does not prove: the real distroless, arm64, BuildKit newer than the engine's.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

keep=0
[ "${1:-}" != --keep ] || keep=1
[ "$(id -u)" = 0 ] || fail "only root can start an engine"
need_cargo
began=$SECONDS
mkdir -p "${M365_CONTAINER_DIR:-target/container}"
work=$(cd "${M365_CONTAINER_DIR:-target/container}" && pwd)
export DOCKER_BUILDKIT=1 BUILDKIT_PROGRESS=plain
unset COMPOSE_PROFILES COMPOSE_FILE
project=m365-ledger-test-$$
port=$((20000 + $$ % 12000))
export M365_LEDGER_ADDRESS=127.0.0.1:$port
export POSTGRES_IMAGE=m365-ledger-test/postgres
figures=()
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
[ -x /usr/bin/docker-compose ] || packages+=(docker-compose)
# A newer client cannot build without a plugin that Debian does not have.
[ -x /usr/bin/docker ] && [ -x /usr/sbin/dockerd ] || packages+=(docker.io)
if [ ${#packages[@]} -gt 0 ]; then
    have apt-get || fail "missing: ${packages[*]}"
    step "installing ${packages[*]}"
    apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" </dev/null >&2; }
    apt_get update || true
    # The package's own engine is not to be started: this script starts one where none runs.
    if have systemctl; then systemctl mask --quiet docker.service docker.socket >&2 || true; fi
    apt_get install --no-install-recommends "${packages[@]}"
    if have systemctl; then systemctl unmask --quiet docker.service docker.socket >&2 || true; fi
fi
docker() { /usr/bin/docker "$@"; }
# It also looks for the secrets of services that are not started.
compose() {
    /usr/bin/docker-compose --project-name "$project" --profile demo "$@" 2> >(grep -v 'undefined secret file' >&2)
}

# ---- the engine

engine=
# shellcheck disable=SC2329 # the trap calls it
finish() {
    local code=$?
    step "tearing down"
    if [ "$code" != 0 ]; then
        compose ps >&2 || true
        compose logs --no-color --tail 40 >&2 || true
    fi
    compose down --volumes --remove-orphans --timeout 5 >/dev/null 2>&1 || true
    if [ "$keep" = 0 ]; then
        docker image rm -f m365-ledger m365-ledger-demo m365-ledger-test/build m365-ledger-test/runtime \
            m365-ledger-test/postgres >/dev/null 2>&1 || true
    fi
    if [ -n "$engine" ]; then
        kill "$engine" 2>/dev/null || true
        wait "$engine" 2>/dev/null || true
        umount -l "$work"/exec/netns/* 2>/dev/null || true
        if [ "$keep" = 0 ]; then rm -rf "$work"; fi
    fi
    if [ "$code" = 0 ]; then
        printf '\n'
        printf '%s\n' "${figures[@]}"
        printf '\nmake test-container: PASSED in %s s\n' "$((SECONDS - began))"
    else
        printf '\nmake test-container: FAILED (exit code %s); the reason is above\n' "$code"
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

start_engine() {
    mkdir -p "$work/data" "$work/exec"
    rm -f "$work/pid"
    dockerd --storage-driver="$1" --host "unix://$work/docker.sock" --data-root "$work/data" --exec-root "$work/exec" \
        --pidfile "$work/pid" >"$work/engine.log" 2>&1 &
    engine=$!
    for _ in $(seq 60); do
        if docker info >/dev/null 2>&1; then return 0; fi
        if ! kill -0 "$engine" 2>/dev/null; then break; fi
        sleep 0.5
    done
    kill "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true
    engine=
    return 1
}

if ! docker info >/dev/null 2>&1; then
    step "starting an engine"
    export DOCKER_HOST=unix://$work/docker.sock
    # overlay2 is quicker, but not every file system lets it; vfs copies all of each layer.
    start_engine overlay2 || start_engine vfs || { tail -n 20 "$work/engine.log" >&2 && fail "no engine starts"; }
fi
figure "engine" "$(docker info --format '{{.ServerVersion}}, {{.Driver}}')"

# ---- the bases

have_image() { docker image inspect "$1" >/dev/null 2>&1; }
if ! have_image m365-ledger-test/build || ! have_image m365-ledger-test/runtime || ! have_image m365-ledger-test/postgres; then
    step "stand-ins for the base images"
    root=$work/root
    certificates=/etc/ssl/certs/ca-certificates.crt
    debian() {
        rm -rf "$root"
        mmdebstrap --quiet "--variant=$1" "--include=$2" bookworm "$root" >&2
        find "${root:?}/dev" -mindepth 1 -delete
        # What this machine trusts: between it and the registries there may be a proxy.
        mkdir -p "$root/etc/ssl/certs"
        cp -L "$certificates" "$root$certificates"
    }
    import() { tar -C "$root" -c . | docker import "$@" >/dev/null; }

    debian minbase ca-certificates,gcc,libc6-dev
    mkdir -p "$root/usr/local/rust"
    tar -C "$(rustc --print sysroot)" -c --exclude=share bin lib | tar -C "$root/usr/local/rust" -x
    import --change 'ENV CARGO_HOME=/usr/local/cargo' \
        --change 'ENV PATH=/usr/local/cargo/bin:/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        - m365-ledger-test/build

    debian extract base-files,libc6,libgcc-s1,ca-certificates,tzdata,netbase
    import - m365-ledger-test/runtime

    debian minbase postgresql
    install -m 755 scripts/container/postgres-entrypoint.sh "$root/usr/local/bin/entrypoint"
    import --change 'ENTRYPOINT ["/usr/local/bin/entrypoint"]' \
        --change "ENV PATH=/$(cd "$root" && echo usr/lib/postgresql/*/bin):/usr/local/bin:/usr/bin:/bin" \
        - m365-ledger-test/postgres
    rm -rf "$root"
fi

# ---- the image

step "building the Dockerfile"
built=$SECONDS
revision=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
for target in runtime demo; do
    name=m365-ledger
    [ "$target" = runtime ] || name=m365-ledger-demo
    docker build --build-arg BUILD_IMAGE=m365-ledger-test/build --build-arg RUNTIME_IMAGE=m365-ledger-test/runtime \
        --build-arg "REVISION=$revision" --target "$target" --tag "$name" . >"$work/build-$target.log" 2>&1 ||
        { tail -n 40 "$work/build-$target.log" >&2 && fail "target $target does not build"; }
done
figure "build, both targets" "$((SECONDS - built)) s"

bytes() { docker image inspect --format '{{.Size}}' "$1"; }
added=$((($(bytes m365-ledger) - $(bytes m365-ledger-test/runtime)) / 1000))
figure "image over its base" "$added kB"
figure "image in all" "$(($(bytes m365-ledger) / 1000)) kB"
[ "$added" -le 40000 ] || fail "the image is $added kB over its base; 40 MB are allowed"
good "the image is $added kB over its base"

config() { docker image inspect --format "{{$2}}" "$1"; }
[ "$(config m365-ledger .Config.User)" = 65532:65532 ] || fail "it does not run as 65532"
[ "$(config m365-ledger 'json .Config.Entrypoint')" = '["/usr/local/bin/m365-ledger"]' ] || fail "the entry point is another"
[ "$(config m365-ledger .Config.StopSignal)" = SIGTERM ] || fail "the stop signal is another"
shows '"healthcheck"' docker image inspect m365-ledger || fail "there is no health check"
shows org.opencontainers.image.licenses docker image inspect m365-ledger || fail "there are no labels"
good "user, entry point, stop signal, health check and labels are set"

docker run --rm m365-ledger --version >&2
if docker run --rm m365-ledger demo --days 1 >/dev/null 2>&1; then fail "the product carries the command demo"; fi
if docker run --rm --entrypoint /usr/local/bin/graph-sim m365-ledger --version >/dev/null 2>&1; then
    fail "the product carries the stand-in for Microsoft"
fi
if docker run --rm --entrypoint /bin/sh m365-ledger -c true >/dev/null 2>&1; then fail "there is a shell in it"; fi
good "neither demo, stand-in nor shell in the product"
code=0
docker run --rm --read-only --cap-drop ALL m365-ledger run >/dev/null 2>"$work/refusal" || code=$?
[ "$code" = 78 ] || { cat "$work/refusal" >&2 && fail "without settings it ends with $code, not 78"; }
good "without settings it ends with 78"

# ---- the whole system

step "docker-compose up, profile demo"
up=$SECONDS
compose up --detach --no-build >&2
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
until_true "Docker calls it healthy" 90 healthy
good "it is healthy"
shows 'm365_ledger_targets{state="ok"} 4' page /metrics || fail "not all four targets are up to date"
shows "revision=\"$revision\"" page /metrics || fail "the revision is not in the program"
good "/metrics says that all four targets are up to date"
docker exec "$ledger" /usr/local/bin/m365-ledger verify >&2 || fail "verify found something"
good "verify finds nothing"

process=$(state .State.Pid)
memory() { awk -v field="$1:" '$1 == field { print $2 " kB" }' "/proc/$process/status"; }
figure "memory at rest" "$(memory VmRSS)"
figure "memory at most, first pass in it" "$(memory VmHWM)"

# ---- how it is locked up

status() { awk -v field="$1:" '$1 == field { $1 = ""; sub(/^[ \t]+/, ""); print }' "/proc/$process/status"; }
case "$(status Uid)" in *65532*65532*65532*65532*) ;; *) fail "it runs as $(status Uid)" ;; esac
for kind in CapInh CapPrm CapEff CapBnd CapAmb; do
    [ "$(status "$kind")" = 0000000000000000 ] || fail "$kind is $(status "$kind")"
done
[ "$(status NoNewPrivs)" = 1 ] || fail "new privileges can be had"
[ "$(state .HostConfig.ReadonlyRootfs)" = true ] || fail "the root file system can be written"
[[ $(awk '$5 == "/" { print $6 }' "/proc/$process/mountinfo") == ro* ]] || fail "the root file system is mounted for writing"
good "uid 65532, no capability, no new privileges, read-only root"
# The places where its secrets are mounted are the engine's doing.
written=$(docker diff "$ledger" | grep -vE '^[AC] /run(/secrets(/demo_[a-z_]+)?)?$' || true)
[ -z "$written" ] || fail "it wrote into its file system: $written"

for secret in "$(cat deploy/demo/client_secret)" ":$(cat deploy/demo/postgres_password)@"; do
    if shows "$secret" docker inspect "$ledger" m365-ledger m365-ledger-demo; then fail "a secret is in docker inspect"; fi
    if shows "$secret" docker history --no-trunc m365-ledger; then fail "a secret is in docker history"; fi
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
