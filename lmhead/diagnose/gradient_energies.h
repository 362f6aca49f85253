// The eigenvalues of G^T G, and how well the best space of one half of the tokens serves the other.
#pragma once

#include <cstdint>
#include <vector>

#include "lmhead/diagnose/token_sample.h"
#include "lmhead/kernels/linear_map.h"

namespace lmhead {

/// What is found of the logit gradient of some tokens; what was only sketched is at most too small.
struct GradientEnergies {
  std::vector<double> energies;      // largest first; squares of the singular values of G where exact
  double total = 0;                  // ||G||^2
  double cross_energy = 0;           // of each half in the best space of the other
  double cross_unresolved = 0;       // what of it a sketch may have missed
  std::int64_t cross_dimension = 0;  // of these spaces, at most the one asked for; 0 where a half has no energy
};

/// Exact, from G G^T [N, N], which is accumulated over tiles of the vocabulary, or where there are fewer words than
/// tokens from G^T G [V, V] of either half; G itself never exists. Halves are alternate documents, or where no two are
/// known the first half of the tokens against the second. Memory: 16 N^2 or 24 V^2 bytes, and a tile.
GradientEnergies exact_gradient_energies(const LinearMap& map, const TokenSample& sample, std::int64_t dimension);

}  // namespace lmhead
