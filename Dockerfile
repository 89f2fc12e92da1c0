# Works with BuildKit and with the legacy builder. Both bases are arguments, for mirrors:
#   docker build --build-arg BUILD_IMAGE=… --build-arg RUNTIME_IMAGE=… -t m365-ledger .
# scripts/pin-images.sh writes the digest of each, which goes with the name; no release is made without them. A base that
# has another digest needs BUILD_DIGEST= or RUNTIME_DIGEST= as well: empty is not pinned.
# There are two targets: `runtime`, the product, which is also what comes without --target; and `demo`, the very same
# program with the stand-in for Microsoft beside it.
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG BUILD_DIGEST=sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot
ARG RUNTIME_DIGEST=sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f

FROM ${BUILD_IMAGE}${BUILD_DIGEST:+@}${BUILD_DIGEST} AS builder
WORKDIR /build
ENV SQLX_OFFLINE=true CARGO_TERM_COLOR=never \
    RUSTFLAGS="--remap-path-prefix=/build=. --remap-path-prefix=/usr/local/cargo=cargo"

# Writes the list of dependencies into the program, where cargo-audit, trivy and grype read it.
ARG CARGO_AUDITABLE_VERSION=0.7.7
RUN cargo install --locked --version "${CARGO_AUDITABLE_VERSION}" cargo-auditable

# The dependencies, as a layer that only a change of Cargo.toml or Cargo.lock makes anew: built for a program that is
# empty. Declared benches, tests and examples have no files yet, so cargo must not hear of them.
COPY Cargo.toml Cargo.lock ./
COPY graph-sim/Cargo.toml graph-sim/
RUN sed -i '/^\[\[\(bench\|test\|example\)\]\]/,/^[[:space:]]*$/d' Cargo.toml graph-sim/Cargo.toml \
    && mkdir -p src graph-sim/src \
    && echo 'fn main() {}' > src/main.rs \
    && echo 'fn main() {}' > graph-sim/src/main.rs \
    && touch src/lib.rs graph-sim/src/lib.rs \
    && cargo auditable build --release --locked --package m365-ledger \
    && rm -rf src graph-sim

# The program. Cargo goes by time stamps: the files must be newer than what was built from the empty ones.
COPY . .
ARG REVISION=unknown
ENV M365_LEDGER_REVISION=${REVISION}
RUN find src graph-sim -name '*.rs' -exec touch {} + \
    && cargo auditable build --release --locked --package m365-ledger --bin m365-ledger \
    && install -D -m 0755 target/release/m365-ledger /out/usr/local/bin/m365-ledger

FROM ${RUNTIME_IMAGE}${RUNTIME_DIGEST:+@}${RUNTIME_DIGEST} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
ARG RUNTIME_IMAGE
ARG RUNTIME_DIGEST
LABEL org.opencontainers.image.title="m365-ledger" \
      org.opencontainers.image.description="Keeps the history of Microsoft 365 usage reports in your own Postgres, for ever" \
      org.opencontainers.image.source="https://github.com/m365-ledger/m365-ledger" \
      org.opencontainers.image.url="https://github.com/m365-ledger/m365-ledger" \
      org.opencontainers.image.documentation="https://github.com/m365-ledger/m365-ledger#readme" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${RUNTIME_IMAGE}" \
      org.opencontainers.image.base.digest="${RUNTIME_DIGEST}"
COPY --from=builder /out/ /
# Needs no home, no temporary folder and no writable file system: everything it keeps is in Postgres.
USER 65532:65532
ENV M365_LEDGER__HTTP__LISTEN=0.0.0.0:8365
EXPOSE 8365
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/m365-ledger", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/m365-ledger"]
CMD ["run"]

FROM builder AS demo-builder
RUN cargo build --release --locked --package graph-sim \
    && install -D -m 0755 target/release/graph-sim /out-demo/usr/local/bin/graph-sim

FROM runtime AS demo
COPY --from=demo-builder /out-demo/ /

# The last stage is what a build without --target makes.
FROM runtime
