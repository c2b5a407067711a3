# docker build -t bitcert . && docker run --rm -v "$PWD/runs:/home/bitcert/runs" bitcert search --problem digits --budget w3a3 --searcher tpe
#
# The build of PyTorch for CPUs, which is about 5 GB smaller. For GPUs: --build-arg TORCH_INDEX= takes the usual build, with CUDA.
ARG PYTHON=3.13
FROM python:${PYTHON}-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# wget is what KubeRay asks a pod with whether it is alive.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 bitcert

COPY pyproject.toml constraints.txt README.md LICENSE /source/
COPY suite /source/suite
COPY searchers /source/searchers
COPY baselines /source/baselines

RUN pip install --no-cache-dir --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --constraint /source/constraints.txt torch torchvision \
    && pip install --no-cache-dir --constraint /source/constraints.txt "/source[onnx,exact]" "ray[default]" \
    && rm -rf /source/build /source/*.egg-info

USER bitcert
WORKDIR /home/bitcert
RUN bitcert doctor

ENTRYPOINT ["bitcert"]
CMD ["--help"]
