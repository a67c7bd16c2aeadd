#!/usr/bin/env bash
# Prints the environment in which the CUDA programs build, on a machine without a CUDA toolkit and without a GPU:
#
#   eval "$(tools/cuda-env.sh [FOLDER])"
#   cargo build --release --bin sd-worker-cuda --features cuda
#
# NVIDIA's compiler and libraries come as PyPI packages into a virtual environment in FOLDER (default: target/cuda-env; about 2 GB).
# The driver's library, libcuda.so.1, belongs to a GPU's driver and is in no package: to link, a stub of it is made here from
# NVIDIA's own cuda.h. Every function of the stub answers CUDA_ERROR_STUB_LIBRARY.
#
# CUDA_COMPUTE_CAP, where it is set, says for which GPUs (default 80: Ampere, and all later ones through PTX).
set -euo pipefail

folder=${1:-$(cd "$(dirname "$0")/.." && pwd)/target/cuda-env}
[ -x "$folder/bin/pip" ] || python3 -m venv "$folder" >&2
"$folder/bin/pip" install --quiet --disable-pip-version-check \
    'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-runtime==13.0.*' \
    'nvidia-cuda-cccl==13.0.*' 'nvidia-cublas==13.0.*' 'nvidia-cuda-nvrtc==13.0.*' 'nvidia-curand==10.4.0.*' >&2
root=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/cu13

# The packages have neither the folder lib64 nor the names without a version that a linker looks for.
ln -sfn lib "$root/lib64"
for library in "$root"/lib/lib*.so.*; do
    ln -sf "$(basename "$library")" "${library%%.so.*}.so"
done
mkdir -p "$root/lib/stubs"
if [ ! -e "$root/lib/stubs/libcuda.so" ]; then
    # Every word of the header that could be a function, also the versioned ones that its macros lead to.
    grep -ohE '\bcu[A-Z][A-Za-z0-9_]*' "$root/include/cuda.h" | sort -u | sed 's/.*/int &(void) { return 34; }/' |
        cc -w -x c -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$root/lib/stubs/libcuda.so.new" -
    mv "$root/lib/stubs/libcuda.so.new" "$root/lib/stubs/libcuda.so"
fi

cat <<ENVIRONMENT
export CUDA_HOME='$root'
export NVCC='$root/bin/nvcc'
export PATH='$root/bin':"\$PATH"
export CUDA_COMPUTE_CAP='${CUDA_COMPUTE_CAP:-80}'
export LD_LIBRARY_PATH='$root/lib'"\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
ENVIRONMENT
