#!/usr/bin/env bash
# Fuzzes the parsers of hostile files under AddressSanitizer and UndefinedBehaviorSanitizer, FUZZ_SECONDS (60) seconds each.
#
# Needs clang with libFuzzer (clang-14, libclang-rt-14-dev) and no torch. Starts from the seeds in fuzz/corpus; what it
# finds goes to fuzz-corpus-new, a crash to fuzz-corpus-new/TARGET-crash-*.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${FUZZ_SECONDS:-60}"
compiler="${FUZZ_CXX:-$(command -v clang++-14 || command -v clang++ || true)}"
if [ -z "$compiler" ]; then
  echo "[fuzz] clang++ must be installed, got none; install clang-14 and libclang-rt-14-dev" >&2
  exit 2
fi

mkdir -p build/fuzz
for target in safetensors_header safetensors_index; do
  new="fuzz-corpus-new/$target"
  mkdir -p "$new"
  "$compiler" -std=c++20 -I. -g -O1 -fno-omit-frame-pointer -fsanitize=fuzzer,address,undefined \
    -fno-sanitize-recover=all "fuzz/${target}_fuzz.cc" "lmhead/models/$target.cc" lmhead/models/safetensors_json.cc \
    -o "build/fuzz/$target"
  echo "[fuzz] $target for $seconds seconds"
  log="build/fuzz/$target.log"
  "build/fuzz/$target" "$new" "fuzz/corpus/$target" -dict=fuzz/safetensors.dict -max_total_time="$seconds" \
    -max_len=4096 -timeout=10 -rss_limit_mb=1024 -artifact_prefix="fuzz-corpus-new/$target-" -print_final_stats=1 \
    -verbosity=0 2> "$log" || { cat "$log" >&2; exit 1; }
  grep -E "number_of_executed_units|peak_rss_mb" "$log"
done
