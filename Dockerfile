# Two images of one build:
#
#   docker build --tag egress-xds:0.1.0 .                         control plane, injector, and all of `xds`
#   docker build --target init --tag egress-xds-init:0.1.0 .      the same with iptables and nftables, for `xds capture`
#
# The dependencies are pinned by hash, and equal sources give equal files. To have equal images, too, pin the base by its
# digest and tell the time that is to stand in them, that of the last commit for example:
#
#   docker buildx build --build-arg BASE=python:3.13-slim@sha256:… --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" \
#       --output type=image,name=egress-xds:0.1.0,rewrite-timestamp=true .
#
# What the steps do stands in deploy/image/, where the tests run it without a container engine. The base needs Python of
# at least 3.11 and the system's authorities (ca-certificates); for the target `init`, apt-get.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ARG SOURCE_DATE_EPOCH=1577836800
ENV PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY deploy/image/environment.sh deploy/image/
COPY requirements/ requirements/
COPY pyproject.toml README.md LICENSE ./
COPY envoy/ envoy/
COPY xds/ xds/
RUN mkdir /root-of-image && PYTHON=python sh deploy/image/environment.sh . /root-of-image

FROM ${BASE} AS runtime
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="egress-xds" \
      org.opencontainers.image.description="Makes a corporate CONNECT proxy transparent for applications: the control plane of their Envoys" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=build /root-of-image/opt/egress-xds /opt/egress-xds
# Outside a container the server listens on loopback only; in one, that would reach nobody.
ENV PATH=/opt/egress-xds/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    EGRESS_XDS_LISTEN=0.0.0.0:18000
# `xds trust` adds to the system's authorities; a base without them would be found out in a pod.
RUN test -s /etc/ssl/certs/ca-certificates.crt || test -s /etc/pki/tls/certs/ca-bundle.crt
# A number, so that Kubernetes' runAsNonRoot can judge it without reading /etc/passwd.
USER 65532:65532
ENTRYPOINT ["xds"]

# For the init containers of pods. `xds capture` needs root and CAP_NET_ADMIN, which the pod gives to that one container.
FROM runtime AS init
USER 0:0
COPY deploy/image/packages.sh /tmp/
# netbase has the names of protocols, by which nft tells the rules that are in force.
RUN sh /tmp/packages.sh iptables netbase nftables && rm /tmp/packages.sh
USER 65532:65532
CMD ["capture", "--print"]

FROM runtime AS control-plane
EXPOSE 18000
CMD ["serve", "/etc/egress-xds/policies"]
