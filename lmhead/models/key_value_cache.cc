#include "lmhead/models/key_value_cache.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr std::int64_t kLeastCapacity = 64;

/// `kept` with room for `tokens` tokens shaped as `like`; the first `length` stay.
void reserve(at::Tensor& kept, const at::Tensor& like, std::int64_t length, std::int64_t tokens) {
  if (kept.defined() && kept.size(1) >= tokens) return;
  const std::int64_t capacity = std::max({kLeastCapacity, tokens, 2 * length});
  at::Tensor larger = at::empty({like.size(0), capacity, like.size(2), like.size(3)}, like.options());
  if (kept.defined()) larger.narrow(1, 0, length).copy_(kept.narrow(1, 0, length));
  kept = larger;
}

}  // namespace

KeyValueCache::KeysAndValues KeyValueCache::append(std::size_t layer, const at::Tensor& keys,
                                                   const at::Tensor& values) {
  at::NoGradGuard no_grad;
  if (layers_.size() <= layer) layers_.resize(layer + 1);
  const std::int64_t tokens = keys.size(1), all = length_ + tokens;
  const auto put = [&](at::Tensor& kept, const at::Tensor& fresh) {
    require(!kept.defined() || kept.size(0) == fresh.size(0), "decoder",
            "a sequence must go on with as many rows as it began with, got ", fresh.size(0));
    reserve(kept, fresh, length_, all);
    kept.narrow(1, length_, tokens).copy_(fresh);
    return kept.narrow(1, 0, all);
  };
  return {put(layers_[layer].keys, keys), put(layers_[layer].values, values)};
}

}  // namespace lmhead
