#include "lmhead/heads/inner_blocks.h"

#include "lmhead/base/error.h"
#include "lmhead/kernels/block_operations.h"

namespace lmhead {

std::vector<std::int64_t> inner_blocks(std::int64_t count, std::int64_t num_hidden_layers, const char* who,
                                       const char* name) {
  require(count < num_hidden_layers || count == 0, who, name, " must be below num_hidden_layers = ", num_hidden_layers,
          ", got ", count);
  std::vector<std::int64_t> blocks;
  for (std::int64_t index = 1; index <= count; ++index) blocks.push_back(index * num_hidden_layers / (count + 1) - 1);
  return blocks;
}

at::Tensor normed_layer(const at::Tensor& layer, const at::Tensor& gain, at::ScalarType type) {
  constexpr double kEps = 1e-5;  // as the decoders' norms have it
  return rms_norm(layer, gain, kEps, type);
}

}  // namespace lmhead
