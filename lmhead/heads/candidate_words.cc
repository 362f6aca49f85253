#include "lmhead/heads/candidate_words.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <string>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/data/permutation.h"

namespace lmhead {

std::vector<std::int64_t> draw_words(const StepContext& step, std::int64_t vocab_size, std::int64_t count,
                                     bool strides) {
  require(count >= 0 && count <= vocab_size, "candidate", "words drawn must be 0 to ", vocab_size, ", got ", count);
  std::vector<std::int64_t> words;
  words.reserve(std::size_t(count));
  if (strides) {
    // Places (i + u) V / S for one u: words are different because V / S is at least 1.
    const double offset = step.stream("candidate").uniform(), stride = double(vocab_size) / double(count);
    for (std::int64_t index = 0; index < count; ++index)
      words.push_back(std::min(vocab_size - 1, std::int64_t((double(index) + offset) * stride)));
    return words;
  }
  const KeyedPermutation order(step.seed, "candidate." + std::to_string(step.part), std::uint64_t(step.step),
                               std::uint64_t(vocab_size));
  for (std::int64_t index = 0; index < count; ++index) words.push_back(std::int64_t(order(std::uint64_t(index))));
  return words;
}

Candidates candidates_of(const at::Tensor& targets, const std::vector<std::int64_t>& drawn, std::int64_t vocab_size,
                         const at::Tensor& batch_targets) {
  constexpr std::int64_t kNot = -1, kDrawn = -2, kTarget = -3;
  std::vector<std::int64_t> places(std::size_t(vocab_size), kNot);
  const at::Tensor given = targets.cpu().contiguous();
  const auto* target = given.const_data_ptr<std::int64_t>();
  std::int64_t count = 0;
  const auto mark = [&](std::int64_t id, std::int64_t as) {
    require(id >= 0 && id < vocab_size, "candidate", "targets must be ids below ", vocab_size, ", got ", id);
    count += places[std::size_t(id)] == kNot ? 1 : 0;
    places[std::size_t(id)] = as;
  };
  for (const std::int64_t id : drawn) mark(id, kDrawn);
  for (std::int64_t token = 0; token < given.size(0); ++token) mark(target[token], kTarget);
  if (batch_targets.defined()) {
    const at::Tensor all = batch_targets.cpu().contiguous();
    for (std::int64_t token = 0; token < all.size(0); ++token) mark(all.const_data_ptr<std::int64_t>()[token], kTarget);
  }
  Candidates result{at::empty({count}, at::kLong), at::empty({given.size(0)}, at::kLong),
                    at::empty({count}, at::kBool)};
  std::int64_t place = 0;
  for (std::int64_t id = 0; id < vocab_size; ++id) {
    if (places[std::size_t(id)] == kNot) continue;
    result.ids.mutable_data_ptr<std::int64_t>()[place] = id;
    result.drawn.mutable_data_ptr<bool>()[place] = places[std::size_t(id)] == kDrawn;
    places[std::size_t(id)] = place++;
  }
  for (std::int64_t token = 0; token < given.size(0); ++token)
    result.targets.mutable_data_ptr<std::int64_t>()[token] = places[std::size_t(target[token])];
  move_to(targets.device(), {&result.ids, &result.targets, &result.drawn});
  return result;
}

}  // namespace lmhead
