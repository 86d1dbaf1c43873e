# Astro Runtime with the project in it, for all of Airflow's processes and for the service.
# The base image leaves it to this file what is installed when, so that a change of code installs nothing again.
FROM astrocrpublic.azurecr.io/runtime:3.3-2-base

WORKDIR /usr/local/airflow
USER root
COPY packages.txt .
RUN /usr/local/bin/install-system-packages

# Wheels of torch for CPUs only are smaller: name the index that has them, or a mirror of your own, with
#   docker build --build-arg UV_EXTRA_INDEX_URL=https://... .
# What torch's wheels on the usual index carry of CUDA is what a worker with a GPU needs beside the driver.
ARG UV_EXTRA_INDEX_URL
COPY requirements.txt .
RUN /usr/local/bin/install-python-dependencies

USER astro
ENV HF_HOME=/usr/local/airflow/models
# The model is downloaded by the first task that embeds, or into the image with --build-arg BAKE_MODEL=1.
ARG BAKE_MODEL=""
ARG EMBEDDING_MODEL="nomic-ai/nomic-embed-text-v1.5"
ARG EMBEDDING_REVISION="e5cf08aadaa33385f5990def41f7a23405aec398"
RUN mkdir -p /usr/local/airflow/data "$HF_HOME" \
    && if [ -n "$BAKE_MODEL" ]; then \
       hf download "$EMBEDDING_MODEL" --revision "$EMBEDDING_REVISION" --exclude "onnx/*"; fi

COPY --chown=astro:0 . .
