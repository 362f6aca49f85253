#!/usr/bin/env bash
# Builds the library and the command with clang, warnings being errors. CLANG_CXX names it; else the newest that is there. Nothing is
# run, nor optimised, which clang's warnings do not wait for. The C++ library is not asked which of its own algorithms use what it
# calls deprecated (-U__DEPRECATED).
set -euo pipefail
cd "$(dirname "$0")/.."

# Whether it has C++20's library and OpenMP.
is_whole() {
  printf '#include <omp.h>\n#include <ranges>\nint main() { return omp_get_max_threads() == 0; }\n' |
    "$1" -x c++ -std=c++20 -fopenmp -o /dev/null - 2>/dev/null
}

find_compiler() {
  local name names=(clang++-{21,20,19,18,17,16,15} clang++)
  [ -z "${CLANG_CXX:-}" ] || names=("$CLANG_CXX")
  for name in "${names[@]}"; do
    if command -v "$name" >/dev/null && is_whole "$name"; then command -v "$name" && return; fi
  done
}

compiler="$(find_compiler || true)"
if [ -z "$compiler" ]; then
  echo "clang: skipped, because there is no clang++ of version 15 or later that has OpenMP (clang-19 and libomp-19-dev of Debian)"
  exit 0
fi
cmake --preset clang -DCMAKE_CXX_COMPILER="$compiler" -DPython3_EXECUTABLE="$PWD/.venv/bin/python" >/dev/null
cmake --build --preset clang --parallel "$(nproc)" | { grep -vE '^\[[0-9]+/[0-9]+\] |^ninja: no work' || true; }
echo "clang: everything is built by $("$compiler" --version | head -n 1)"
