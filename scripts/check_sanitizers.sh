#!/usr/bin/env bash
# Builds base, data, kernels and models with AddressSanitizer and UndefinedBehaviorSanitizer, and runs their tests.
#
# SANITIZE_FILTER is a --gtest_filter. libtorch itself is not instrumented, and leaks are not looked for: what it keeps until
# the end of a process passes for them.
set -euo pipefail
cd "$(dirname "$0")/.."

cmake --preset sanitize -DPython3_EXECUTABLE="$PWD/.venv/bin/python" >/dev/null
cmake --build --preset sanitize --parallel "$(nproc)" | { grep -vE '^\[[0-9]+/[0-9]+\] |^ninja: no work' || true; }
export ASAN_OPTIONS="detect_leaks=0:strict_string_checks=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export UBSAN_OPTIONS="print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
export LMHEAD_PROPERTY_SECONDS="${LMHEAD_PROPERTY_SECONDS:-10}"
for room in base data kernels models; do
  "build/sanitize/bin/test_$room" --gtest_brief=1 --gtest_filter="${SANITIZE_FILTER:-*}"
done
