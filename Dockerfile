# One file, two images: `docker build --target gateway .` and `docker build --target provider .`
#
# They hold a program, the libraries that it needs, certificates of authorities, and (the provider's) the bundled model: no
# shell, no package manager, a user of their own, nothing that must be written to but /data. `--build-arg ENGINE=cuda` builds
# the provider with CUDA; its image then stands on NVIDIA's.

ARG ENGINE=cpu

FROM rust:1.95-bookworm AS tools-cpu
ENV FEATURES=mistral

FROM nvidia/cuda:12.9.1-cudnn-devel-ubuntu22.04 AS tools-cuda
RUN apt-get update && apt-get install -y --no-install-recommends build-essential ca-certificates curl \
    && curl -fsSL https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain 1.95
ENV PATH=/root/.cargo/bin:$PATH FEATURES=cuda

# The gateway needs no mistralrs, so its image does not wait for it.
FROM tools-cpu AS build-gateway
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist -p lumbung-gateway \
    && scripts/rootfs gateway target/dist/lumbung-gateway /image

FROM tools-${ENGINE} AS build-provider
WORKDIR /src
COPY . .
RUN cargo build --locked --release -p lumbung-provider --features "$FEATURES" \
    && scripts/rootfs provider target/release/lumbung-provider /image

FROM scratch AS base-cpu
FROM nvidia/cuda:12.9.1-cudnn-runtime-ubuntu22.04 AS base-cuda

FROM scratch AS gateway
COPY --from=build-gateway /image/ /
USER 1000:1000
VOLUME /data
ENV PATH=/usr/local/bin LUMBUNG_LISTEN=0.0.0.0:8080 LUMBUNG_DATA_DIR=/data
EXPOSE 8080
HEALTHCHECK --interval=5s CMD ["lumbung-gateway", "health"]
ENTRYPOINT ["lumbung-gateway"]
CMD ["serve"]

FROM base-${ENGINE} AS provider
COPY --from=build-provider /image/ /
USER 1000:1000
VOLUME /data
ENV PATH=/usr/local/bin:/usr/bin:/bin LUMBUNG_PROVIDER_DATA_DIR=/data
# No EXPOSE: a provider listens on nothing.
HEALTHCHECK --interval=10s --start-period=60s CMD ["lumbung-provider", "status", "--local"]
ENTRYPOINT ["lumbung-provider"]
CMD ["serve"]

# What docker-compose.yml runs once: an account, a key, the bundled model, the first question.
FROM debian:bookworm-slim AS setup
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl jq && rm -rf /var/lib/apt/lists/* \
    && install -d -o 1000 -g 1000 /setup
COPY --from=build-gateway /image/usr/local/bin/lumbung-gateway /usr/local/bin/
COPY gateway/deploy/compose/setup /usr/local/bin/
COPY provider-runtime/models/padi /models/padi
USER 1000:1000
VOLUME /setup
CMD ["setup"]
