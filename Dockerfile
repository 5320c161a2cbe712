# The one list of steps that makes dtq's image. With a registry: `docker build -t dtq .`
# Without one: `python -m hack.images build`, which reads this very file (hack/images/README.md).
# `python -m hack.images pin` renews the digest.
ARG BASE=docker.io/library/debian:trixie-slim@sha256:d7e12182ce18b85b93007c1dedf31f2d29e01ccf3182cc4017c709b6259bc132
FROM ${BASE} AS build
ENV DEBIAN_FRONTEND=noninteractive UV_SYSTEM_CERTS=1 UV_PYTHON=/usr/bin/python3.13 UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/opt/dtq
# The trusted authorities come before what is fetched over TLS.
RUN apt-get update -q && apt-get install -y -q --no-install-recommends ca-certificates python3 python3-venv
# The same uv as everywhere, by hash.
COPY hack/uv.txt /src/hack/uv.txt
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install -q --disable-pip-version-check --require-hashes -r /src/hack/uv.txt
# A root folder of what runs, and nothing else: no shell, no package manager, no compiler.
COPY hack/images/rootfs /src/hack/images/rootfs
RUN /src/hack/images/rootfs /rootfs
# What changes seldom comes first. Every wheel is held against its hash in uv.lock.
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN /opt/uv/bin/uv sync --quiet --frozen --no-dev --extra all --no-install-project
COPY services services
COPY operator operator
COPY db db
# The root is read-only where it runs, and layers carry no times: compiled code must not look at the time of its source.
# The generated classes of the Kubernetes API, which dtq does not use, are left out: they are half of the image.
# uv notes the time of the build: without that note, the same content gives the same image.
RUN /opt/uv/bin/uv sync --quiet --frozen --no-dev --extra all --no-editable && rm -rf /opt/dtq/bin/activate* /opt/dtq/.lock \
    && rm /opt/dtq/lib/python3.13/site-packages/dtq-*.dist-info/uv_cache.json \
    && sed -i '/uv_cache.json/d' /opt/dtq/lib/python3.13/site-packages/dtq-*.dist-info/RECORD \
    && cd /opt/dtq/lib/python3.13/site-packages \
    && rm -rf kubernetes/client kubernetes/aio/client/api kubernetes/e2e_test kubernetes/aio/client/models/[a-z]* \
    && sed -i -E '/^kubernetes\/(client\/|aio\/client\/api|e2e_test|aio\/client\/models\/[a-z])/d' kubernetes-*.dist-info/RECORD \
    && find /opt/dtq -name __pycache__ -type d -prune -exec rm -rf {} + \
    && PYTHONHASHSEED=0 python3 -m compileall -q --invalidation-mode unchecked-hash /opt/dtq/lib

FROM scratch
COPY --from=build /rootfs /
COPY --from=build /opt/dtq /opt/dtq
ENV PATH=/opt/dtq/bin:/usr/bin LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
LABEL org.opencontainers.image.title=dtq org.opencontainers.image.licenses=MIT
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["dtq"]
CMD ["--help"]
