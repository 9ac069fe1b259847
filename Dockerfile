# One file, two images: `docker build --target gateway .` and `docker build --target provider .`

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The gateway needs no mistralrs, so its image does not wait for it.
FROM build AS build-gateway
RUN cargo build --locked --release -p lumbung-gateway
FROM build AS build-provider
RUN cargo build --locked --release -p lumbung-provider

FROM debian:bookworm-slim AS base
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 lumbung && install -d -o lumbung /data
USER lumbung
VOLUME /data

FROM base AS gateway
COPY --from=build-gateway /src/target/release/lumbung-gateway /usr/local/bin/
ENV LUMBUNG_LISTEN=0.0.0.0:8080 LUMBUNG_DATA_DIR=/data
EXPOSE 8080
HEALTHCHECK --interval=5s CMD curl -fsS http://127.0.0.1:8080/health/ready
CMD ["lumbung-gateway", "serve"]

FROM base AS provider
COPY --from=build-provider /src/target/release/lumbung-provider /usr/local/bin/
COPY provider-runtime/models /models
ENV LUMBUNG_PROVIDER_DATA_DIR=/data
# No EXPOSE: a provider listens on nothing.
CMD ["lumbung-provider", "serve"]
