#!/usr/bin/env bash
# Builds the library and the command with clang, warnings being errors. CLANG_CXX names it; nothing is run. What older
# libraries of C++ say of themselves (-Wdeprecated-declarations in their own algorithms) is not asked for, nor what g++ never asks for
# in C++ (-Wmissing-braces).
set -euo pipefail
cd "$(dirname "$0")/.."

find_compiler() {
  local name
  for name in "${CLANG_CXX:-clang++}" clang++-{21,20,19,18,17,16,15}; do command -v "$name" && return; done
}

# Whether it has C++20's library and OpenMP.
is_whole() {
  printf '#include <omp.h>\n#include <ranges>\nint main() { return omp_get_max_threads() == 0; }\n' |
    "$1" -x c++ -std=c++20 -fopenmp -o /dev/null - 2>/dev/null
}

compiler="$(find_compiler || true)"
if [ -z "$compiler" ] || ! is_whole "$compiler"; then
  echo "clang: skipped, because there is no clang++ of version 15 or later that has OpenMP (clang-19 and libomp-19-dev of Debian)"
  exit 0
fi
cmake --preset clang -DCMAKE_CXX_COMPILER="$compiler" -DPython3_EXECUTABLE="$PWD/.venv/bin/python" >/dev/null
cmake --build --preset clang --parallel "$(nproc)" | { grep -vE '^\[[0-9]+/[0-9]+\] |^ninja: no work' || true; }
echo "clang: everything is built by $("$compiler" --version | head -n 1)"
