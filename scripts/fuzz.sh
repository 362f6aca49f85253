#!/usr/bin/env bash
# Fuzzes the parsers of hostile files under AddressSanitizer and UndefinedBehaviorSanitizer, FUZZ_SECONDS (60) seconds each.
#
# Needs clang with libFuzzer and no torch; what is missing is installed as scripts/setup does. Starts from the seeds in
# fuzz/corpus and from what earlier calls found. Finds are kept in build/fuzz/corpus, a crash as build/fuzz/TARGET-crash-*.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "fuzz: $*" >&2; }
seconds="${FUZZ_SECONDS:-60}"

find_compiler() { command -v "${FUZZ_CXX:-clang++}" || command -v clang++-14 || true; }

install() {
  if ! command -v apt-get >/dev/null; then
    say "there is no apt-get here; please install what these Debian packages hold, then run this again: $*"
    exit 2
  fi
  local as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  say "installing $*"
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Whether the compiler has the runtimes of the fuzzer and both sanitizers.
links_fuzzer() {
  echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
    "$1" -x c++ -fsanitize=fuzzer,address,undefined -o build/fuzz/probe - 2>/dev/null
}

mkdir -p build/fuzz
[ -n "$(find_compiler)" ] || install clang
compiler="$(find_compiler)"
if ! links_fuzzer "$compiler"; then
  major="$("$compiler" -dumpversion | cut -d. -f1)"
  install "libclang-rt-$major-dev"
  links_fuzzer "$compiler" || { say "$compiler must link -fsanitize=fuzzer,address,undefined, and does not"; exit 2; }
fi

for target in safetensors_header safetensors_index; do
  corpus="build/fuzz/corpus/$target"
  mkdir -p "$corpus"
  "$compiler" -std=c++20 -I. -g -O1 -fno-omit-frame-pointer -fsanitize=fuzzer,address,undefined \
    -fno-sanitize-recover=all "fuzz/${target}_fuzz.cc" "lmhead/models/$target.cc" lmhead/models/safetensors_json.cc \
    lmhead/base/printable_text.cc \
    -o "build/fuzz/$target"
  say "$target for $seconds seconds"
  log="build/fuzz/$target.log"
  "build/fuzz/$target" "$corpus" "fuzz/corpus/$target" -dict=fuzz/safetensors.dict -max_total_time="$seconds" \
    -max_len=4096 -timeout=10 -rss_limit_mb=1024 -artifact_prefix="build/fuzz/$target-" -print_final_stats=1 \
    -verbosity=0 2> "$log" || { cat "$log" >&2; exit 1; }
  grep -E "number_of_executed_units|peak_rss_mb" "$log"
  say "$(find "$corpus" -type f | wc -l) inputs kept in $corpus"
done
