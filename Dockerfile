# edge in an image without a shell, a package manager or anything else that it doesn't run on: the folder that
# `make binary` builds, the C library, certificates. Works with Docker and Podman:
#
#   docker build --build-arg SOURCE_COMMIT="$(git rev-parse HEAD)" \
#                --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" --tag edge .
#   docker run --rm --read-only --cap-drop ALL --publish 8080:8080 --env EDGE_AUTH_TOKEN=... edge

ARG PYTHON_IMAGE=docker.io/library/python:3.11-bookworm@sha256:5887f265d8d44d8b4734d3658b21d668edf5aaf92e4945bc0c984afbfab105d3

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
# What changes seldom comes first.
COPY requirements requirements
RUN requirements/install build
COPY LICENSE ./
COPY build build
COPY clients clients
COPY edge edge
ARG SOURCE_COMMIT=unknown
ARG SOURCE_DATE_EPOCH=0
RUN .venv/bin/python build/binary.py && build/image /image

FROM scratch
COPY --from=build /image /
ARG SOURCE_COMMIT=unknown
LABEL org.opencontainers.image.title="edge" \
      org.opencontainers.image.description="A self-hosted Server-Sent Events hub that never drops an event silently." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${SOURCE_COMMIT}"
# Every address, for a container's own is not loopback: so auth.token, a JWT key or auth.anonymous has to be set.
# Secrets mounted at these paths are used.
ENV EDGE_SERVER_HOST=0.0.0.0 \
    EDGE_SERVER_LOG_FORMAT=json \
    EDGE_AUTH_TOKEN_FILE=-/run/secrets/auth.token \
    EDGE_AUTH_JWT_KEY_FILE=-/run/secrets/auth.jwt_key \
    EDGE_TRIGGER_URL_FILE=-/run/secrets/trigger.url \
    EDGE_TRIGGER_SECRET_FILE=-/run/secrets/trigger.secret \
    EDGE_HOOKS_URL_FILE=-/run/secrets/hooks.url \
    EDGE_HOOKS_SECRET_FILE=-/run/secrets/hooks.secret \
    EDGE_STORE_URL_FILE=-/run/secrets/store.url \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 8080
# By the options of process 1, which is the hub.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/bin/edge", "healthcheck", "--pid", "1"]
ENTRYPOINT ["/usr/bin/edge"]
CMD ["serve"]
