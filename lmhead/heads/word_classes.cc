#include "lmhead/heads/word_classes.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <mutex>
#include <utility>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "head";

WordLayout read_layout(const at::Tensor& order, const at::Tensor& sizes) {
  const std::int64_t vocab_size = order.numel();
  WordLayout layout{.ids = order.detach().cpu().to(at::kLong)};
  layout.rows = at::zeros({vocab_size}, at::kLong) - 1;
  auto* rows = layout.rows.mutable_data_ptr<std::int64_t>();
  const auto* ids = layout.ids.const_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < vocab_size; ++row) {
    require(ids[row] >= 0 && ids[row] < vocab_size && rows[ids[row]] < 0, kWho, "the order of words must hold each of ",
            vocab_size, " ids once, got ", ids[row], " in row ", row);
    rows[ids[row]] = row;
  }
  const at::Tensor whole_sizes = sizes.detach().cpu().to(at::kLong).contiguous();
  layout.sizes.assign(whole_sizes.const_data_ptr<std::int64_t>(),
                      whole_sizes.const_data_ptr<std::int64_t>() + whole_sizes.numel());
  layout.begins = {0};
  layout.classes = at::empty({vocab_size}, at::kLong);
  auto* classes = layout.classes.mutable_data_ptr<std::int64_t>();
  for (const std::int64_t size : layout.sizes) {
    const std::int64_t begin = layout.begins.back(), end = begin + size;
    require(size >= 1 && end <= vocab_size, kWho, "classes must have 1 to ", vocab_size - begin, " words, got ", size);
    for (std::int64_t row = begin; row < end; ++row) classes[ids[row]] = std::int64_t(layout.begins.size()) - 1;
    layout.begins.push_back(end);
  }
  require(layout.begins.back() == vocab_size, kWho, "classes must hold all of ", vocab_size, " words, got ",
          layout.begins.back());
  move_to(order.device(), {&layout.ids, &layout.rows, &layout.classes});
  return layout;
}

}  // namespace

struct WordClasses::Cache {
  /// A tensor as it was: the same one, and not written to since.
  struct Seen {
    at::Tensor tensor;
    std::uint64_t version = 0;
    bool holds(const at::Tensor& now) const {
      return tensor.is_same(now) && (!now.defined() || version == std::uint64_t(now._version()));
    }
  };
  std::mutex mutex;
  Seen order, sizes;
  std::shared_ptr<const WordLayout> layout;
};

WordClasses::WordClasses(ParameterPtr order, ParameterPtr sizes)
    : order_(std::move(order)), sizes_(std::move(sizes)), cache_(std::make_shared<Cache>()) {}

std::shared_ptr<const WordLayout> WordClasses::layout() const {
  const std::lock_guard lock(cache_->mutex);
  const at::Tensor order = order_->value, sizes = sizes_ ? sizes_->value : at::Tensor();
  if (!cache_->layout || !cache_->order.holds(order) || !cache_->sizes.holds(sizes)) {
    const at::Tensor whole = sizes.defined() ? sizes : at::full({1}, double(order.numel()), at::kDouble);
    cache_->layout = std::make_shared<const WordLayout>(read_layout(order, whole));
    cache_->order = {order, std::uint64_t(order._version())};
    cache_->sizes = {sizes, sizes.defined() ? std::uint64_t(sizes._version()) : 0};
  }
  return cache_->layout;
}

ClassGroups group_by_class(const at::Tensor& targets, const WordLayout& layout) {
  const std::int64_t count = targets.size(0);
  ClassGroups result{.classes = layout.classes.index_select(0, targets)};
  // The losses of classes are calls of sizes that the CPU must know; it counts, and what it found goes to the device.
  const at::Tensor rows = layout.rows.index_select(0, targets).cpu(), classes = result.classes.cpu();
  result.order = at::empty({count}, at::kLong);
  result.places = at::empty({count}, at::kLong);
  result.within = at::empty({count}, at::kLong);
  const auto* class_of = classes.const_data_ptr<std::int64_t>();
  const auto* row_of = rows.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> next(layout.sizes.size() + 1);  // counts, then where the class's next token goes
  for (std::int64_t token = 0; token < count; ++token) ++next[std::size_t(class_of[token]) + 1];
  for (std::size_t index = 0; index < layout.sizes.size(); ++index) {
    const std::int64_t first = next[index], size = next[index + 1];
    if (size > 0) result.groups.push_back({std::int64_t(index), first, size});
    next[index + 1] += first;
  }
  for (std::int64_t token = 0; token < count; ++token) {
    const std::int64_t index = class_of[token], place = next[std::size_t(index)]++;
    result.order.mutable_data_ptr<std::int64_t>()[place] = token;
    result.places.mutable_data_ptr<std::int64_t>()[token] = place;
    result.within.mutable_data_ptr<std::int64_t>()[place] = row_of[token] - layout.begins[std::size_t(index)];
  }
  move_to(targets.device(), {&result.order, &result.places, &result.within});
  return result;
}

at::Tensor no_part_of(const at::Tensor& tensor) { return tensor.narrow(0, 0, 0).sum(); }

at::Tensor within_class_losses(const at::Tensor& hidden, const at::Tensor& weight, const WordLayout& layout,
                               const ClassGroups& groups, Reduction reduction) {
  // split_with_sizes goes backwards as one concatenation; a slice a class would each be a matrix of zeros.
  std::vector<std::int64_t> counts;
  for (const ClassGroups::Group& group : groups.groups) counts.push_back(group.count);
  const auto parts = hidden.index_select(0, groups.order).split_with_sizes(counts);
  const auto weights = weight.split_with_sizes(layout.sizes);
  const at::TensorOptions type = hidden.options().dtype(loss_type(hidden.scalar_type()));
  const bool keeps_tokens = reduction == Reduction::kNone;
  std::vector<at::Tensor> losses;
  bool has_pass = false;
  for (std::size_t index = 0; index < groups.groups.size(); ++index) {
    const auto& [of_class, first, count] = groups.groups[index];
    // A word that is alone in its class has probability 1 there.
    const bool is_pass = layout.sizes[std::size_t(of_class)] > 1;
    has_pass |= is_pass;
    if (is_pass)
      losses.push_back(linear_cross_entropy(parts[index], {weights[std::size_t(of_class)]},
                                            groups.within.narrow(0, first, count), {.reduction = reduction}));
    else if (keeps_tokens) losses.push_back(at::zeros({count}, type));
  }
  if (keeps_tokens) losses = {losses.empty() ? at::zeros({0}, type) : at::cat(losses).index_select(0, groups.places)};
  else losses = {losses.empty() ? at::zeros({}, type) : at::stack(losses).sum()};
  return has_pass ? losses[0] : losses[0] + (no_part_of(weight) + no_part_of(hidden)).to(type);
}

}  // namespace lmhead
