#!/usr/bin/env bash
# Installs what a build, the tests and the demo need, where it is missing: a C compiler, PostgreSQL, make, curl and the
# system's certificates. Does nothing where all is there. `--check` only says what is missing. Further arguments name what
# else is wanted: `jdbc`, `promtool`, `pgbouncer`, `python3-venv`, `browser`, `pictures`.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages=()
compiles() { printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | cc -x c - -o "$1" 2>/dev/null; }

probe=$(mktemp)
trap 'rm -f "$probe"' EXIT
compiles "$probe" || packages+=(gcc libc6-dev)
have make || packages+=(make)
have curl || packages+=(curl)
[ -n "$(pg_bin || true)" ] || packages+=(postgresql)
if [ "$(uname -s)" = Linux ] && [ ! -e /etc/ssl/certs/ca-certificates.crt ] && [ ! -e /etc/pki/tls/certs/ca-bundle.crt ] &&
    [ ! -e /etc/ssl/cert.pem ]; then
    packages+=(ca-certificates)
fi
for extra in "$@"; do
    case "$extra" in
    --check) ;;
    jdbc) { have javac && [ -e /usr/share/java/postgresql.jar ]; } || packages+=(default-jdk-headless libpostgresql-jdbc-java) ;;
    # Debian's package of the server has it. That it starts a server, too, is prevented below.
    promtool) have promtool || packages+=(prometheus) ;;
    pgbouncer) [ -x /usr/sbin/pgbouncer ] || packages+=(pgbouncer) ;;
    # A browser and what drives it, of one version.
    browser) { have chromium && have chromedriver; } || packages+=(chromium chromium-driver) ;;
    pictures)
        have pngquant || packages+=(pngquant)
        [ -d /usr/share/fonts/opentype/inter ] || packages+=(fonts-inter)
        ;;
    python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv) ;;
    *) fail "what is $extra?" ;;
    esac
done

[ ${#packages[@]} -gt 0 ] || exit 0
say "missing on this machine: ${packages[*]}"
[ "${1:-}" != --check ] || exit 1

if ! have apt-get; then
    case "$(uname -s)" in
    Darwin) fail "install them with: xcode-select --install; brew install postgresql make curl" ;;
    *)
        if have dnf; then
            fail "install them with: sudo dnf install gcc make curl ca-certificates postgresql-server"
        fi
        fail "install a C compiler, make, curl, the CA certificates and the PostgreSQL server with this system's packages"
        ;;
    esac
fi

if [ "$(id -u)" = 0 ]; then
    root=()
elif have sudo && sudo -n true 2>/dev/null; then
    root=(sudo -n)
else
    fail "they can only be installed by root. Run:
    sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages[*]}"
fi

# ${root[@]+…}: an empty list is an unset one to old versions of bash.
apt() {
    ${root[@]+"${root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" </dev/null >&2
}

step "installing ${packages[*]}"
apt update || say "warning: the list of packages could not be renewed; going on with the one that is there"

for service in prometheus pgbouncer; do
    case " ${packages[*]} " in
    *" $service "*)
        # A unit that is masked before it exists is not started by its package. Only the program is wanted.
        if have systemctl; then ${root[@]+"${root[@]}"} systemctl mask --quiet "$service.service" >&2 || true; fi
        ;;
    esac
done

case " ${packages[*]} " in
*" postgresql "*)
    # Debian's package sets up and starts a server of its own on port 5432. Only the programs are wanted here.
    settings=/etc/postgresql-common/createcluster.conf
    apt install --no-install-recommends postgresql-common
    saved=$(mktemp)
    cat "$settings" >"$saved" 2>/dev/null || true
    printf 'create_main_cluster = false\n' | ${root[@]+"${root[@]}"} tee "$settings" >/dev/null
    installed=0
    apt install --no-install-recommends "${packages[@]}" || installed=$?
    ${root[@]+"${root[@]}"} tee "$settings" <"$saved" >/dev/null
    rm -f "$saved"
    [ "$installed" = 0 ] || fail "apt-get could not install ${packages[*]}"
    ;;
*)
    apt install --no-install-recommends "${packages[@]}" || fail "apt-get could not install ${packages[*]}"
    ;;
esac
