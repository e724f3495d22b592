# The service, unprivileged by default: every job then runs as the container's user.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY rsl rsl
COPY protocol protocol
COPY jobmanager jobmanager
COPY gatekeeper gatekeeper
COPY gram gram
RUN python -m venv /opt/gram && /opt/gram/bin/pip install --no-cache-dir .

FROM python:3.11-slim
COPY --from=build /opt/gram /opt/gram
RUN useradd --create-home --uid 1000 gram \
    && mkdir -p /etc/gram /var/lib/gram \
    && chown gram:gram /var/lib/gram
ENV PATH=/opt/gram/bin:$PATH PYTHONUNBUFFERED=1
USER gram
EXPOSE 2119 9119
VOLUME /var/lib/gram
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9119/ready', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["gram"]
CMD ["serve", "--config", "/etc/gram/gram.toml"]
