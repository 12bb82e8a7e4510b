# Jetson image: JetPack 6.2 with ROS 2 Humble (Orin), or with --build-arg JETPACK=7 JetPack 7.2 with ROS 2 Jazzy (Orin
# and Thor). Build it on a Jetson, or anywhere for arm64 (docker buildx build --platform linux/arm64).
#   docker build -f docker/jetson.Dockerfile -t lfm-perception:jetpack6 .
ARG JETPACK=6

FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0 AS build-6
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates=20* g++=4:11.* python3-dev=3.10.* python3-venv=3.10.* \
 && rm -rf /var/lib/apt/lists/*
ENV CUDA_ARCHITECTURES=87

# CUDA 13.0 for Arm has no Orin; 13.2 has both
FROM nvcr.io/nvidia/cuda:13.2.0-devel-ubuntu24.04 AS build-7
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates=20* g++=4:13.* python3-dev=3.12.* python3-venv=3.12.* \
 && rm -rf /var/lib/apt/lists/*
ENV CUDA_ARCHITECTURES=87;110

# hadolint ignore=DL3006
FROM build-${JETPACK} AS build
# not native: the build may run on another machine; every Orin and Thor has these features. No VMM: on some Orins
# CUDA cannot reserve the 32 GB of addresses of llama.cpp's default pool, which aborts the process at the first image.
ENV CMAKE_ARGS="-DGGML_CUDA=on -DGGML_CUDA_NO_VMM=on -DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES} -DGGML_NATIVE=off -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/lfm_perception/bin:/usr/local/cuda/bin:$PATH
WORKDIR /source
COPY constraints.txt requirements.txt ./
RUN python3 -m venv /opt/lfm_perception \
 && sed -n '/^pip==/,/[^\\]$/p' requirements.txt > pip.txt \
 && pip install --require-hashes --requirement pip.txt \
 && pip install --require-hashes --build-constraint constraints.txt --requirement requirements.txt \
 && install -D -t /opt/lfm_perception/lib/cuda \
      /usr/local/cuda/lib64/libcudart.so.1[23] /usr/local/cuda/lib64/libcublas.so.1[23] \
      /usr/local/cuda/lib64/libcublasLt.so.1[23]
COPY . .
# ros2 launch and ros2 run search for programs in lib/lfm_perception
RUN pip install --no-deps --build-constraint constraints.txt . \
 && install --directory /opt/lfm_perception/lib/lfm_perception \
 && ln -s ../../bin/perception_node ../../bin/demo_camera /opt/lfm_perception/lib/lfm_perception

FROM ros:humble-ros-core-jammy AS final-6
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1=12.* ros-humble-vision-msgs=4.* \
 && rm -rf /var/lib/apt/lists/*

FROM ros:jazzy-ros-core-noble AS final-7
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1=14.* ros-jazzy-vision-msgs=4.* \
 && rm -rf /var/lib/apt/lists/*

# hadolint ignore=DL3006
FROM final-${JETPACK}
RUN install --directory --owner 1000 --group 1000 /models /out
COPY --from=build /opt/lfm_perception /opt/lfm_perception
COPY LICENSE NOTICE /usr/share/doc/lfm_perception/
RUN echo /opt/lfm_perception/lib/cuda > /etc/ld.so.conf.d/lfm_perception.conf && ldconfig
ENV PATH=/opt/lfm_perception/bin:$PATH AMENT_PREFIX_PATH=/opt/lfm_perception HOME=/tmp HF_HOME=/models \
    ROS_LOG_DIR=/tmp/log NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all
USER 1000:1000
WORKDIR /out
# the base image's entry point sources ROS 2
ENTRYPOINT ["/ros_entrypoint.sh"]
CMD ["perception_node", "--ros-args", "-p", "node.autostart:=true", "-p", "engine.n_gpu_layers:=-1"]
