#!/usr/bin/env bash
# Latency and exactness of the engine on an NVIDIA GPU, for a machine without a network.
#   benchmarks/cuda.sh pack          with a network, no GPU: build/cuda/part* (each at most 64 MiB, to carry one by one)
#   benchmarks/cuda.sh build         on the GPU: compiles llama.cpp with CUDA, as for a Jetson
#   benchmarks/cuda.sh run [OUT]     builds where that was not done, measures, leaves OUT/cuda.json
# GPU_LAYERS=0 tries the steps on a CPU, with the llama-cpp-python wheel of ~/.cache instead of a compilation.
# PACKAGES="name ..." packs only these, for a machine whose python3 has the others.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=build/cuda
layers=${GPU_LAYERS:-99}
packages=(${PACKAGES:-cmake diskcache gguf hypothesis jinja2 json-repair ninja numpy opencv-python-headless packaging pillow
  pytest pyyaml rich ruamel.yaml scikit-build-core scipy setuptools typing-extensions})
part_size=${PART_SIZE:-67108864}
exact='draft or batches or depend_on_what_was_asked or plan_passes_through'

pack() {
  rm -rf $folder && mkdir -p $folder/all
  pip=(.venv/bin/python -m pip)
  sdist="llama-cpp-python==$(sed -n 's/^llama-cpp-python==//p' constraints.txt)"
  "${pip[@]}" download --quiet --no-deps --no-binary llama-cpp-python --dest $folder "$sdist"
  tar -xzf $folder/llama_cpp_python-*.tar.gz -C $folder && rm $folder/llama_cpp_python-*.tar.gz
  # most of it is not needed to compile
  (cd $folder/llama_cpp_python-*/vendor/llama.cpp && rm -rf models docs media tests benches)
  rm -rf $folder/llama_cpp_python-*/.git
  tar -cJf $folder/all/llama_cpp_python.tar.xz -C $folder "$(basename $folder/llama_cpp_python-*)"
  rm -rf $folder/llama_cpp_python-*
  "${pip[@]}" download --quiet ${PACKAGES:+--no-deps} --only-binary :all: --constraint constraints.txt --dest $folder/all "${packages[@]}"
  number=0 size=$((part_size + 1))
  for file in $folder/all/*; do
    bytes=$(stat -c %s "$file")
    (( size + bytes > part_size )) && number=$((number + 1)) size=0 && mkdir $folder/part$number
    mv "$file" $folder/part$number && size=$((size + bytes))
  done
  rmdir $folder/all && du -sh $folder/part*
}

export PATH=$PWD/$folder/site/bin:/usr/local/cuda/bin:$PATH PYTHONPATH=$PWD:$PWD/$folder/site

build() {
  links=() && for part in $folder/part*; do links+=(--find-links "$part"); done
  install=(python3 -m pip install --quiet --no-index ${PACKAGES:+--no-deps} "${links[@]}" --target $folder/site)
  "${install[@]}" "${packages[@]}"
  if [ "$layers" = 0 ]; then
    "${install[@]}" "$(ls ~/.cache/lfm_perception/wheels/*/llama_cpp_python-*.whl | head -1)"
  else
    tar -xJf $folder/part*/llama_cpp_python.tar.xz -C $folder
    architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
    CMAKE_ARGS="-DGGML_CUDA=on -DGGML_CUDA_NO_VMM=on -DCMAKE_CUDA_ARCHITECTURES=$architecture" \
      CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) "${install[@]}" --no-deps --no-build-isolation $folder/llama_cpp_python-*/
  fi
}

run() {
  out=${1:-${OUT:-out/cuda}} && mkdir -p "$out"
  [ -d $folder/site/llama_cpp ] || build
  export LFM_PERCEPTION_TEST_GPU_LAYERS=$layers XDG_CACHE_HOME=$PWD/$folder/cache
  python3 benchmarks/engine.py --gpu-layers "$layers" --sizes 256x256 512x512 --threads 2 --rounds "${ROUNDS:-7}" --out "$out" || true
  python3 -m pytest -q -p no:cacheprovider -W ignore test/test_engine.py test/test_speculative.py -k "$exact" --junitxml "$out/exact.xml" || true
  python3 - "$out" "$layers" <<'PYTHON'
import json, pathlib, subprocess, sys
from xml.etree import ElementTree

out, layers = pathlib.Path(sys.argv[1]), int(sys.argv[2])
cases = ElementTree.parse(out / "exact.xml").iter("testcase") if (out / "exact.xml").exists() else []
exact = {case.get("name"): "failed" if len(case) else "passed" for case in cases}
query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
gpu = subprocess.run(query, capture_output=True, text=True).stdout.strip() if layers else "none"
engine = json.loads((out / "engine.json").read_text()) if (out / "engine.json").exists() else None
(out / "cuda.json").write_text(json.dumps({"gpu": gpu, "engine": engine, "exact": exact}, indent=2))
print(f"{out / 'cuda.json'}: {gpu}, {list(exact.values()).count('passed')} of {len(exact)} exactness tests passed")
sys.exit(engine is None or not exact or "failed" in exact.values())
PYTHON
}

"${1:?pack, build or run}" "${@:2}"
