# The CUDA image: s2l-ray, Ray and vLLM for CUDA 13. Nodes need NVIDIA's driver 580 or later; x86-64.
#   docker build -f cluster/images/cuda.Dockerfile -t s2l-ray:0.1.0-cuda .
# From the repository's root; .dockerignore keeps everything else out.
# Of the devel kind: vLLM's FlashInfer and TileLang kernels are compiled with nvcc when they are first used.
ARG BASE=docker.io/nvidia/cuda:13.0.2-devel-ubuntu24.04
FROM ${BASE}

# Python is 3.12 here. The operator starts Ray with bash. libnuma is vLLM's; ibverbs is what NCCL loads for RDMA.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
    bash ca-certificates g++ ibverbs-providers libibverbs1 libnuma1 procps python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

# Ubuntu's image has a user `ubuntu` with this number. Numbers, so that runAsNonRoot can be checked; nothing of the
# installation is writable for the user.
RUN userdel --remove ubuntu \
 && groupadd --gid 1000 s2l \
 && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash s2l \
 && mkdir /outputs /models /data && chown 1000:1000 /outputs /models

COPY requirements/cuda.lock requirements/
RUN python3 -m venv /opt/s2l \
 && /opt/s2l/bin/python -m pip install --no-cache-dir --disable-pip-version-check --only-binary=:all: --no-deps \
    --requirement requirements/cuda.lock \
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

# void: a pod without GPUs of its own must not see those of its node; the device plugin overrides it in the others.
# Pods reach neither the Hub nor statistics servers; a Hub id is read from the models' volume, which a Job fills.
ENV PATH=/opt/s2l/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=void \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    VLLM_NO_USAGE_STATS=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    DO_NOT_TRACK=1
USER 1000:1000
WORKDIR /home/s2l
