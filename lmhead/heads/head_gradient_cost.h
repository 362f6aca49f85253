// What rules and penalties on the head's gradients cost in arithmetic.
#pragma once

#include <cstdint>

#include "lmhead/heads/head_gradient_options.h"

namespace lmhead {

/// The sizes that a training step's head has to do with.
struct HeadStepShape {
  std::int64_t hidden_size, vocab_size;
  std::int64_t tokens;         // of the whole step
  std::int64_t micro_batches;  // a matrix is made of the first one's tokens
};

/// Floating-point operations that `options` add to a training step, averaged over the steps between two refreshes; a
/// matrix that is kept for good counts nothing. Matrix products as they are carried out (2 n m k), eigenvectors of a
/// symmetric D x D matrix 9 D^3 and its eigenvalues alone 4/3 D^3 (Golub & Van Loan, Matrix Computations, section 8.3);
/// elementwise work is left out.
double head_gradient_flops(const HeadGradientOptions& options, const HeadStepShape& shape);

}  // namespace lmhead
