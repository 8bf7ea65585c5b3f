# One image for both commands: chat-serve, which it starts, and chat-cli.
# docs/guide/docker.md says how to use it.

FROM python:3.11-slim-bookworm AS build
WORKDIR /opt/source
# Without pip, which nothing needs in the end: this stage's own installs from outside.
RUN python -m venv --without-pip /opt/chat
# The lock before the source, so that what it names is fetched again only when it changes.
COPY requirements/run.txt requirements/
RUN pip --python /opt/chat/bin/python install --no-cache-dir --require-hashes --no-deps \
    --requirement requirements/run.txt
COPY LICENSE README.md pyproject.toml ./
COPY src src/
# The lock has the build's tools too, so nothing comes from anywhere here.
RUN pip --python /opt/chat/bin/python install --no-cache-dir --no-index --no-deps \
    --no-build-isolation .

FROM python:3.11-slim-bookworm
# The number is fixed, for it owns what is in the volume, whatever image comes next.
RUN useradd --uid 10001 --create-home chat \
    && install --directory --owner=chat --group=chat --mode=700 /data
COPY --from=build /opt/chat /opt/chat
ENV PATH=/opt/chat/bin:$PATH \
    CHAT_DATABASE=sqlite:////data/chatcore.db \
    CHAT_HOST=0.0.0.0 \
    CHAT_TRANSPORT="ws socketio"
# By number, so that Kubernetes can see that it is not root.
USER 10001
WORKDIR /data
EXPOSE 5050
# chat-serve drains on it.
STOPSIGNAL SIGTERM
# There is no curl; and unlike urllib this asks no proxy that the environment may name.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["python", "-c", "\
import http.client; server = http.client.HTTPConnection('127.0.0.1', 5050, timeout=3); \
server.request('GET', '/readyz'); raise SystemExit(server.getresponse().status != 200)"]
CMD ["chat-serve"]
