# The CPU image: s2l-ray, Ray and the CPU build of vLLM, for trials and for nodes without a GPU. x86-64 with AVX2.
#   docker build -f cluster/images/cpu.Dockerfile -t s2l-ray:0.1.0-cpu .
# From the repository's root; .dockerignore keeps everything else out.
ARG BASE=docker.io/library/python:3.11.15-slim-bookworm
FROM ${BASE}

# The operator starts Ray with bash. libnuma is vLLM's; g++ compiles its kernels where engines.*.enforce_eager is false.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bash ca-certificates g++ libnuma1 procps \
 && rm -rf /var/lib/apt/lists/*

# Numbers, so that runAsNonRoot can be checked; nothing of the installation is writable for the user.
RUN groupadd --gid 1000 s2l \
 && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash s2l \
 && mkdir /outputs /models /data && chown 1000:1000 /outputs /models

# torch's +cpu build is on PyTorch's own index only.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY requirements/cpu.lock requirements/
RUN python -m venv /opt/s2l \
 && /opt/s2l/bin/python -m pip install --no-cache-dir --disable-pip-version-check --only-binary=:all: --no-deps \
    --requirement requirements/cpu.lock \
 && rm -r requirements

# Last, so that a change of the code builds only this layer again.
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE /build/
COPY s2l_ray /build/s2l_ray
COPY actors /build/actors
COPY configs /build/configs
COPY cluster/inventories /build/cluster/inventories
RUN /opt/s2l/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation /build \
 && rm -r /build

# The label is what rayVersion of a manifest must say; a lock with another Ray ends the build here.
ARG RAY_VERSION=2.60.0
LABEL io.ray.version=${RAY_VERSION}
RUN test "$(/opt/s2l/bin/python -c 'import ray; print(ray.__version__)')" = "${RAY_VERSION}"

# Pods reach neither the Hub nor statistics servers; a Hub id is read from the models' volume, which a Job fills.
ENV PATH=/opt/s2l/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    VLLM_NO_USAGE_STATS=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    DO_NOT_TRACK=1
USER 1000:1000
WORKDIR /home/s2l
