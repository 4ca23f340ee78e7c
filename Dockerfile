# A node in a container. Keys, ledger, model and logs lie in the volume; who loses it loses the coins of its wallet.
#
#     docker build --tag ailo-node .
#     docker run --name ailo --volume ailo:/var/lib/ailo --publish 8646:8646 ailo-node run --network dev
#
# docs/operations.md says how to join a network and how to reach its page.

FROM rust:1.90-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN scripts/libtorch \
    && cargo build --locked --release --workspace --bin ailo-node \
    && cp -rL .libtorch/lib /libtorch \
    && cp -L .libtorch/../nvidia/cu13/lib/*.so* /libtorch/

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libstdc++6 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /var/lib/ailo --shell /usr/sbin/nologin ailo \
    && install --directory --owner ailo --group ailo --mode 0700 /var/lib/ailo
COPY --from=build /libtorch /usr/lib/ailo/libtorch
COPY --from=build /src/target/release/ailo-node /usr/bin/ailo-node
ENV AILO_DATA_DIR=/var/lib/ailo AILO_LOG_FORMAT=json
USER 10001:10001
VOLUME /var/lib/ailo
# Peers. JSON-RPC and the page listen for the container alone, unless --http says otherwise.
EXPOSE 8646/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 CMD ["ailo-node", "status", "--json"]
ENTRYPOINT ["tini", "--", "ailo-node"]
CMD ["run", "--network", "dev"]
