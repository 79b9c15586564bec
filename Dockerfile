# The image of the API and the worker: PostgreSQL comes through DATABASE_URL, keys and blobs live in the volume /var/lib/aureus.

FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY requirements/tools.txt requirements/run.txt requirements/
RUN pip install --no-cache-dir --root-user-action=ignore --require-hashes -r requirements/tools.txt \
    && python -m venv --without-pip /opt/aureus/venv \
    && uv pip sync --no-cache --python /opt/aureus/venv/bin/python --require-hashes --compile-bytecode requirements/run.txt
COPY domain /opt/aureus/domain
COPY commands /opt/aureus/commands
COPY projections /opt/aureus/projections
COPY infra /opt/aureus/infra
COPY streams /opt/aureus/streams
COPY api /opt/aureus/api
COPY policies /opt/aureus/policies
RUN python -m compileall -q /opt/aureus/domain /opt/aureus/commands /opt/aureus/projections /opt/aureus/infra /opt/aureus/streams /opt/aureus/api

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/aureus aureus \
    && install --directory --owner=aureus --mode=0700 /var/lib/aureus
COPY --from=build /opt/aureus /opt/aureus
ENV PATH=/opt/aureus/venv/bin:$PATH \
    PYTHONPATH=/opt/aureus \
    PYTHONUNBUFFERED=1 \
    AUREUS_HOME=/var/lib/aureus \
    AUREUS_HOST=0.0.0.0
USER aureus
WORKDIR /var/lib/aureus
VOLUME /var/lib/aureus
EXPOSE 8420
ENTRYPOINT ["python", "-m", "api.cli"]
CMD ["serve"]
