#include "lmhead/models/tree_attention.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>

#include "lmhead/kernels/packed_attention.h"
#include "lmhead/kernels/row_major_product.h"
#include "lmhead/kernels/tile_products.h"
#include "lmhead/kernels/tile_sizes.h"
#include "lmhead/kernels/vector/row_kernels.h"

namespace lmhead {
namespace {

constexpr std::int64_t kQueries = 64;       // rows of a block of scores
constexpr std::int64_t kTaskQueries = 256;  // that a thread takes at once; keys and values are copied for each
// Micro-kernels are made for every size that occurs, so few sizes may.
constexpr std::int64_t kRowMultiple = 16, kKeyMultiple = 64, kSmallestStride = 128, kStridePadding = 16;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return tile_sizes::divide_up(value, multiple) * multiple;
}

/// Of a tree's queries, where they begin among all and how many there are.
struct Queries {
  std::int64_t first, count;
};
Queries queries_of(const TreeHeads& heads, const TokenTrees& trees, const TokenTrees::Tree& tree) {
  if (heads.of_asked && trees.rows.defined()) return {tree.asked_first, tree.asked};
  return {tree.first, tree.size};
}

struct Task {
  std::size_t tree;
  std::int64_t key_head;
  Queries queries;
};

/// One key head of one tree after another, on one thread.
class Worker {
 public:
  Worker(const TreeHeads& heads, const TokenTrees& trees, const AttentionOptions& options, std::int64_t most_keys,
         const at::Tensor& output)
      : heads_(heads),
        trees_(trees),
        options_(options),
        width_(heads.query.size(2)),
        group_(heads.query.size(1) / heads.key.size(1)),
        // Rows a power of two apart would fall into few sets of the caches.
        stride_(std::int64_t(std::bit_ceil(std::uint64_t(std::max(most_keys, kSmallestStride)))) + kStridePadding),
        keys_(std::size_t(width_ * stride_)),
        values_(std::size_t(stride_ * width_)),
        scores_(std::size_t(kQueries * stride_)),
        queries_(std::size_t(kQueries * width_)),
        mixed_(std::size_t(kQueries * width_)),
        output_(output) {
    if (heads.of_asked && trees.rows.defined()) asked_ = trees.rows.const_data_ptr<std::int64_t>();
    positions_ = trees.positions.const_data_ptr<std::int64_t>();
  }

  void run(const Task& task) {
    const TokenTrees::Tree& tree = trees_.trees[task.tree];
    const auto [begin, all] = task.queries;
    take_keys(tree, task.key_head, keys_seen(tree, begin, all));
    for (std::int64_t first = begin; first < begin + all; first += kQueries) {
      const std::int64_t count = std::min(kQueries, begin + all - first);
      for (std::int64_t head = task.key_head * group_; head < (task.key_head + 1) * group_; ++head)
        mix(tree, head, first, count);
    }
  }

 private:
  std::int64_t row_of(std::int64_t query) const { return asked_ ? asked_[query] : query; }

  /// How many of the tree's tokens the furthest of these queries looks at.
  std::int64_t keys_seen(const TokenTrees::Tree& tree, std::int64_t first, std::int64_t count) const {
    std::int64_t last = tree.first;
    for (std::int64_t query = first; query < first + count; ++query) last = std::max(last, row_of(query));
    return last - tree.first + 1;
  }

  /// Keys turned [d, keys] and values [keys, d], with zeros up to a multiple.
  void take_keys(const TokenTrees::Tree& tree, std::int64_t head, std::int64_t keys) {
    const std::int64_t padded = round_up(keys, kKeyMultiple);
    const auto from = [&](const at::Tensor& all) {
      return all.const_data_ptr<float>() + tree.first * all.stride(0) + head * all.stride(1);
    };
    turn(from(heads_.key), keys, width_, heads_.key.stride(0), keys_.data(), stride_);
    for (std::int64_t column = 0; column < width_; ++column)
      std::fill_n(keys_.data() + column * stride_ + keys, padded - keys, 0.0f);
    const float* value = from(heads_.value);
    for (std::int64_t key = 0; key < keys; ++key)
      std::copy_n(value + key * heads_.value.stride(0), width_, values_.data() + key * width_);
    std::fill_n(values_.data() + keys * width_, (padded - keys) * width_, 0.0f);
  }

  void mix(const TokenTrees::Tree& tree, std::int64_t head, std::int64_t first, std::int64_t count) {
    const std::int64_t keys = round_up(keys_seen(tree, first, count), kKeyMultiple),
                       rows = round_up(count, kRowMultiple);
    const auto scale = float(options_.scale);
    for (std::int64_t row = 0; row < count; ++row) {
      const float* query =
          heads_.query.const_data_ptr<float>() + (first + row) * heads_.query.stride(0) + head * heads_.query.stride(1);
      std::transform(query, query + width_, queries_.data() + row * width_, [&](float x) { return x * scale; });
    }
    row_major_product(rows, keys, width_, queries_.data(), width_, keys_.data(), stride_, scores_.data(), stride_,
                      false);
    float inverse_sums[kQueries];
    for (std::int64_t row = 0; row < count; ++row)
      inverse_sums[row] = 1 / weigh(tree, row_of(first + row), keys, scores_.data() + row * stride_);
    row_major_product(rows, width_, keys, scores_.data(), stride_, values_.data(), width_, mixed_.data(), width_,
                      false);
    float* to = output_.mutable_data_ptr<float>() + head * width_;
    for (std::int64_t row = 0; row < count; ++row) {
      const float* mixed = mixed_.data() + row * width_;
      std::transform(mixed, mixed + width_, to + (first + row) * output_.size(1),
                     [&](float x) { return x * inverse_sums[row]; });
    }
  }

  /// A line of scores of the token `row` to its weights over what the token sees, 0 elsewhere; returns their sum.
  float weigh(const TokenTrees::Tree& tree, std::int64_t row, std::int64_t keys, float* line) const {
    constexpr float kNothing = -std::numeric_limits<float>::infinity();
    const std::int64_t seen = row - tree.first + 1;
    for (const TokenTrees::Rows& part : trees_.beside[std::size_t(trees_.beside_which[std::size_t(row)])])
      std::fill(line + part.begin - tree.first, line + part.end - tree.first, kNothing);
    const std::int64_t window = options_.sliding_window;
    if (window > 0 && positions_[row] >= window)
      for (std::int64_t key = 0; key < seen; ++key)
        if (positions_[row] - positions_[tree.first + key] >= window) line[key] = kNothing;
    std::fill(line + seen, line + keys, 0.0f);
    return vector::row_kernels().attention_float.exponentials(line, seen);
  }

  const TreeHeads& heads_;
  const TokenTrees& trees_;
  const AttentionOptions& options_;
  std::int64_t width_, group_, stride_;
  std::vector<float> keys_, values_, scores_, queries_, mixed_;
  const at::Tensor& output_;
  const std::int64_t *asked_ = nullptr, *positions_;
};

/// Numbers side by side within a head, in float32.
at::Tensor readable(const at::Tensor& heads) {
  const at::Tensor numbers = heads.to(at::kFloat);
  return numbers.stride(2) == 1 ? numbers : numbers.contiguous();
}

at::Tensor attention_by_blocks(const TreeHeads& heads, const TokenTrees& trees, const AttentionOptions& options) {
  const TreeHeads read = {readable(heads.query), readable(heads.key), readable(heads.value), heads.of_asked};
  const std::int64_t key_heads = read.key.size(1);
  const at::Tensor output = at::empty({read.query.size(0), read.query.size(1) * read.query.size(2)}, at::kFloat);
  std::vector<Task> tasks;
  std::int64_t most_keys = 0;
  for (std::size_t tree = 0; tree < trees.trees.size(); ++tree) {
    most_keys = std::max(most_keys, trees.trees[tree].size);
    const auto [begin, count] = queries_of(heads, trees, trees.trees[tree]);
    for (std::int64_t first = 0; first < count; first += kTaskQueries)
      for (std::int64_t head = 0; head < key_heads; ++head)
        tasks.push_back({tree, head, {begin + first, std::min(kTaskQueries, count - first)}});
  }
  std::atomic<std::size_t> next = 0;
  const auto threads = std::min<std::int64_t>(at::get_num_threads(), std::int64_t(tasks.size()));
  at::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
    Worker worker(read, trees, options, most_keys, output);
    for (std::size_t task = next++; task < tasks.size(); task = next++) worker.run(tasks[task]);
  });
  return output.to(heads.query.scalar_type());
}

}  // namespace

at::Tensor plain_tree_attention(const TreeHeads& heads, const TokenTrees& trees, const AttentionOptions& options) {
  std::vector<at::Tensor> mixed;
  for (const TokenTrees::Tree& tree : trees.trees) {
    const auto [first, count] = queries_of(heads, trees, tree);
    if (count == 0) continue;
    const at::Tensor query = heads.query.narrow(0, first, count).unsqueeze(0),
                     key = heads.key.narrow(0, tree.first, tree.size).unsqueeze(0),
                     value = heads.value.narrow(0, tree.first, tree.size).unsqueeze(0);
    const bool is_windowed = options.sliding_window > 0 && options.sliding_window < tree.size;
    if (!heads.of_asked && !tree.visible.defined()) {  // a sequence as any other
      mixed.push_back(is_windowed || options.softcap > 0
                          ? causal_attention(query, key, value, options)
                          : packed_causal_attention(at::cat(std::vector<at::Tensor>{query, key, value}, 2),
                                                    query.size(2), options.scale));
      continue;
    }
    at::Tensor visible = tree.visible;
    if (!visible.defined()) visible = at::ones({tree.size, tree.size}, key.options().dtype(at::kBool)).tril();
    if (is_windowed) {
      const at::Tensor positions = trees.positions.narrow(0, tree.first, tree.size);
      visible = visible.logical_and((positions.unsqueeze(1) - positions.unsqueeze(0)).lt(options.sliding_window));
    }
    if (heads.of_asked && trees.rows.defined())
      visible = visible.index_select(0, trees.rows.narrow(0, first, count) - tree.first);
    mixed.push_back(masked_attention(query, key, value, visible, options));
  }
  return at::cat(mixed);
}

at::Tensor tree_attention(const TreeHeads& heads, const TokenTrees& trees, const AttentionOptions& options) {
  if (!has_tree_kernel(heads.query, options)) return plain_tree_attention(heads, trees, options);
  return attention_by_blocks(heads, trees, options);
}

bool has_tree_kernel(const at::Tensor& query, const AttentionOptions& options) {
  const at::ScalarType type = query.scalar_type();
  return query.is_cpu() && (type == at::kFloat || type == at::kBFloat16) && options.softcap == 0 &&
         has_row_major_product() && may_use_avx512();
}

at::Tensor chain_attention(const at::Tensor& projected, std::int64_t heads, const AttentionOptions& options) {
  const std::int64_t batch = projected.size(0), length = projected.size(1), keys = (projected.size(2) - heads) / 2;
  TokenTrees chains;
  for (std::int64_t sequence = 0; sequence < batch; ++sequence) chains.trees.push_back({sequence * length, length, {}});
  chains.positions = at::arange(length).repeat({batch});
  chains.depth = length;
  chains.beside.resize(1);
  chains.beside_which.assign(std::size_t(batch * length), 0);
  const auto parts = projected.flatten(0, 1).split_with_sizes({heads, keys, keys}, 1);
  return tree_attention({parts[0], parts[1], parts[2]}, chains, options);
}

}  // namespace lmhead
