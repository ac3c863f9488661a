# The MLflow server's image: the client's version of MLflow, with PostgreSQL's driver.
#   docker build -f cluster/images/mlflow.Dockerfile -t s2l-ray-mlflow:3.17.2 .
# From the repository's root; .dockerignore keeps everything else out.
ARG BASE=docker.io/library/python:3.11.15-slim-bookworm
FROM ${BASE}

RUN groupadd --gid 1000 mlflow && useradd --uid 1000 --gid 1000 --create-home mlflow

COPY requirements/mlflow.lock requirements/
RUN python -m venv /opt/mlflow \
 && /opt/mlflow/bin/python -m pip install --no-cache-dir --disable-pip-version-check --only-binary=:all: --no-deps \
    --requirement requirements/mlflow.lock \
 && rm -r requirements

ENV PATH=/opt/mlflow/bin:$PATH PYTHONUNBUFFERED=1 MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
USER 1000:1000
WORKDIR /home/mlflow
