// at::parallel_for, and the certainty that it is parallel.
#pragma once

#include <ATen/Config.h>
#include <ATen/Parallel.h>

#if AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "at::parallel_for runs on one thread unless the including file is compiled with -fopenmp"
#endif
