# shellcheck shell=bash
# Stand-ins for the base images, for test-container.sh; sourced, not run. Made from Debian's packages and this machine's
# Rust, because no registry of images is needed then.

debian() {
    rm -rf "$root"
    mmdebstrap --quiet "--variant=$1" "--include=$2" bookworm "$root" >&2 || cannot "Debian's packages cannot be had"
    find "${root:?}/dev" -mindepth 1 -delete
    # What this machine trusts: between it and the registries there may be a proxy.
    mkdir -p "$root/etc/ssl/certs"
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
}
import_image() { tar -C "$root" -c . | docker import "$@" >/dev/null; }

# make_bases FOLDER BUILD RUNTIME POSTGRES: images of these names, made in a folder that is removed again.
make_bases() {
    root=$1
    debian minbase ca-certificates,gcc,libc6-dev
    mkdir -p "$root/usr/local/rust"
    tar -C "$(rustc --print sysroot)" -c --exclude=share bin lib | tar -C "$root/usr/local/rust" -x
    import_image --change 'ENV CARGO_HOME=/usr/local/cargo' \
        --change 'ENV PATH=/usr/local/cargo/bin:/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        - "$2"

    # Like distroless/cc: no shell, no packages.
    debian extract base-files,libc6,libgcc-s1,ca-certificates,tzdata,netbase
    import_image - "$3"

    debian minbase postgresql
    install -m 755 scripts/container/postgres-entrypoint.sh "$root/usr/local/bin/entrypoint"
    import_image --change 'ENTRYPOINT ["/usr/local/bin/entrypoint"]' \
        --change "ENV PATH=/$(cd "$root" && echo usr/lib/postgresql/*/bin):/usr/local/bin:/usr/bin:/bin" \
        - "$4"
    rm -rf "$root"
}
