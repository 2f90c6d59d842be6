# The image of the control plane: the wheel and its pinned dependencies, those for Kubernetes included; no compiler, no
# root.

FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements/ requirements/
RUN python -m venv /opt/egress-xds \
    && /opt/egress-xds/bin/pip install --no-cache-dir --require-hashes -r requirements/kubernetes.txt \
    && python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY envoy/ envoy/
COPY xds/ xds/
RUN /opt/build/bin/python -m hatchling build -t wheel -d /wheel \
    && /opt/egress-xds/bin/pip install --no-cache-dir --no-deps /wheel/*.whl

FROM python:3.13-slim
LABEL org.opencontainers.image.title="egress-xds" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/egress-xds /opt/egress-xds
# Outside a container the server listens on loopback only; in one, that would reach nobody.
ENV PATH=/opt/egress-xds/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    EGRESS_XDS_LISTEN=0.0.0.0:18000
# A number, so that Kubernetes' runAsNonRoot can judge it without reading /etc/passwd.
USER 65532:65532
EXPOSE 18000
ENTRYPOINT ["xds"]
CMD ["serve", "/etc/egress-xds/policies"]
