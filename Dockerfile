# Astro Runtime with the project, for all of Airflow's processes and for the service.
# The -base image installs nothing by itself: this file installs packages before it copies the code, so that a change
# of code does not install them again.
FROM astrocrpublic.azurecr.io/runtime:3.3-2-base

WORKDIR /usr/local/airflow
USER root
COPY packages.txt .
RUN /usr/local/bin/install-system-packages

# Wheels of torch for CPUs only are smaller. Use an index that has them, or your own mirror, with
#   docker build --build-arg UV_EXTRA_INDEX_URL=https://... .
# The wheels on PyPI include CUDA; a worker with a GPU needs only its driver beside them.
ARG UV_EXTRA_INDEX_URL
COPY requirements.txt .
RUN /usr/local/bin/install-python-dependencies

USER astro
ENV HF_HOME=/usr/local/airflow/models
# The first embedding task downloads the model; --build-arg BAKE_MODEL=1 puts it into the image instead.
ARG BAKE_MODEL=""
ARG EMBEDDING_MODEL="nomic-ai/nomic-embed-text-v1.5"
ARG EMBEDDING_REVISION="e5cf08aadaa33385f5990def41f7a23405aec398"
RUN mkdir -p /usr/local/airflow/data "$HF_HOME" \
    && if [ -n "$BAKE_MODEL" ]; then \
       hf download "$EMBEDDING_MODEL" --revision "$EMBEDDING_REVISION" --exclude "onnx/*"; fi

COPY --chown=astro:0 . .
