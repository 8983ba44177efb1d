# The Suanli service and command line.
#   docker build -t suanli:dev .
# BASE may be any image with Python >= 3.11 and glibc; name your own registry's mirror here where you have one.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /opt/suanli
# the lock first: its layer is rebuilt only when a dependency changes
COPY requirements.lock ./
RUN /opt/suanli/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
      --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY suanli ./suanli
COPY solvers ./solvers
COPY scheduler ./scheduler
COPY cluster_sim ./cluster_sim
COPY benchmarks ./benchmarks
RUN /opt/suanli/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
      --no-deps --no-build-isolation . \
    && /opt/suanli/bin/python -m compileall -q /opt/suanli/lib \
    # pip has done its work; what runs needs no installer
    && /opt/suanli/bin/python -m pip uninstall --yes --quiet pip

FROM ${BASE}
LABEL org.opencontainers.image.title="suanli" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN mkdir -p /var/lib/suanli && chown 65532:65532 /var/lib/suanli
COPY --from=build /opt/suanli /opt/suanli
ENV PATH=/opt/suanli/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# a number, so that Kubernetes can check runAsNonRoot
USER 65532:65532
WORKDIR /var/lib/suanli
VOLUME /var/lib/suanli
EXPOSE 7470 9470
ENTRYPOINT ["suanli"]
CMD ["serve", "--host", "0.0.0.0", "--port", "7470", "--store", "sqlite:////var/lib/suanli/suanli.sqlite", "--metrics-port", "9470"]
