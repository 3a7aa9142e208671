FROM python:3.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
# The lock holds the tools of development too. All of it is fetched and checked against its hashes;
# what the package itself needs is then installed from there, without the index.
COPY requirements.lock ./
RUN pip download --no-deps --only-binary :all: --require-hashes --requirement requirements.lock --dest /wheels
COPY pyproject.toml README.md LICENSE ./
COPY stream_monitor ./stream_monitor
RUN python -m venv /opt/stream-monitor \
    && /opt/stream-monitor/bin/pip install --no-index --find-links /wheels ".[lightgbm]"

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="stream_monitor" \
      org.opencontainers.image.description="Online drift, outlier and data-quality monitor for model servers" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/stream-monitor/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# LightGBM needs the OpenMP runtime.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
# /data and /state are the only folders that are written to: references, and the service's state.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin monitor \
    && install --directory --owner=monitor --group=monitor /data /state
COPY --from=build /opt/stream-monitor /opt/stream-monitor
USER 10001
WORKDIR /data
EXPOSE 9877
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9877/-/healthy', timeout=4)"]
ENTRYPOINT ["stream-monitor"]
CMD ["run", "--config", "/etc/stream-monitor/monitor.yaml"]
