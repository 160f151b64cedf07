# Two images from one file: `tocsin` runs every process of a station, `redis` has the server beside it, for
# the guard that starts it. docker-compose.sentinel.yml builds both.
ARG PYTHON=python:3.13-slim-trixie
ARG VALKEY=valkey/valkey:9

FROM ${VALKEY} AS valkey

FROM ${PYTHON} AS built
WORKDIR /src
RUN python3 -m venv /opt/tocsin
COPY deploy/requirements.lock ./
RUN /opt/tocsin/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY control control
COPY ingest ingest
COPY projections projections
COPY streams streams
# Nothing is installed in a container that runs, so nothing there needs what installs.
RUN /opt/tocsin/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/tocsin/bin/pip uninstall --yes --quiet hatchling pip \
    && /opt/tocsin/bin/tocsin --version

FROM ${PYTHON} AS tocsin
COPY --from=built /opt/tocsin /opt/tocsin
ENV PATH=/opt/tocsin/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
CMD ["tocsin", "--help"]

FROM tocsin AS redis
COPY --from=valkey /usr/local/bin/valkey-server /usr/local/bin/valkey-cli /usr/local/bin/
# Fails the build, not the start, where a library of theirs is not here.
RUN valkey-server --version && valkey-cli --version
CMD ["tocsin", "run", "guard", "--help"]
