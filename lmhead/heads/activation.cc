#include "lmhead/heads/activation.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/silu.h>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr Phi kPhis[] = {
    {"none", 1, [](const at::Tensor& x) { return x; }},
    {"gelu", 0.42522148, [](const at::Tensor& x) { return at::gelu(x); }},  // 1/3 + 1 / (2 pi sqrt 3)
    {"silu", 0.35577552, [](const at::Tensor& x) { return at::silu(x); }},  // by quadrature
};

}  // namespace

std::vector<std::string> phi_names() {
  std::vector<std::string> names;
  for (const Phi& phi : kPhis) names.emplace_back(phi.name);
  return names;
}

const Phi& phi_named(const std::string& name) {
  for (const Phi& phi : kPhis)
    if (name == phi.name) return phi;
  fail("head", "head.activation must be one of none, gelu, silu, got ", name);
}

}  // namespace lmhead
