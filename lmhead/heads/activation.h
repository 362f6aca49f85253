// The maps phi that heads bend features with.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace lmhead {

struct Phi {
  const char* name;
  double second_moment;  // E[phi(x)^2] of a standard normal x
  at::Tensor (*apply)(const at::Tensor&);

  bool is_identity() const { return second_moment == 1; }
};

/// none, gelu and silu.
std::vector<std::string> phi_names();
/// The one of that name; throws where there is none.
const Phi& phi_named(const std::string& name);

}  // namespace lmhead
