#include "lmhead/models/token_trees.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

/// Row after row: what a token's parent sees, and itself.
at::Tensor visibility(const std::vector<std::int64_t>& parents, std::int64_t first, std::int64_t size) {
  const at::Tensor visible = at::zeros({size, size}, at::kBool);
  bool* rows = visible.mutable_data_ptr<bool>();
  for (std::int64_t row = 0; row < size; ++row) {
    const std::int64_t parent = parents[std::size_t(first + row)] - first;
    if (row > 0) std::memcpy(rows + row * size, rows + parent * size, std::size_t(parent) + 1);
    rows[row * size + row] = true;
  }
  return visible;
}

}  // namespace

std::int64_t TokenTreeBuilder::shared(const std::vector<std::int64_t>& sequence) const {
  std::size_t same = 0;
  while (same < std::min(path_.size(), sequence.size()) && tokens_[std::size_t(path_[same])] == sequence[same]) ++same;
  // A token costs about 24 D^2 operations a block; scores, which a mask does not spare, cost 4 D for every pair.
  const double fresh = double(sequence.size() - same), in_tree = double(rows() - tree_first_);
  return double(same) * 6 * double(hidden_size_) >= fresh * (2 * in_tree + fresh) ? std::int64_t(same) : 0;
}

std::int64_t TokenTreeBuilder::fresh_rows(const std::vector<std::int64_t>& sequence) const {
  return std::int64_t(sequence.size()) - shared(sequence);
}

const std::vector<std::int64_t>& TokenTreeBuilder::add(const std::vector<std::int64_t>& sequence) {
  require(!sequence.empty(), "decoder", "a sequence of a tree must hold one token at least, got none");
  path_.resize(std::size_t(shared(sequence)));
  if (path_.empty()) tree_first_ = rows();
  for (std::size_t place = path_.size(); place < sequence.size(); ++place) {
    parents_.push_back(path_.empty() ? -1 : path_.back());
    path_.push_back(rows());
    tokens_.push_back(sequence[place]);
  }
  return path_;
}

TokenTrees TokenTreeBuilder::build(const std::vector<std::int64_t>& rows) const {
  TokenTrees result;
  std::vector<std::int64_t> positions;
  std::vector<bool> branches;  // of each tree
  for (std::int64_t row = 0; row < this->rows(); ++row) {
    const std::int64_t parent = parents_[std::size_t(row)];
    if (parent < 0) {
      result.trees.push_back({row, 0, {}});
      branches.push_back(false);
    }
    ++result.trees.back().size;
    if (parent < 0 || parent != row - 1) {
      result.beside.push_back(parent < 0 ? std::vector<TokenTrees::Rows>()
                                         : result.beside[std::size_t(result.beside_which[std::size_t(parent)])]);
      if (parent >= 0) result.beside.back().push_back({parent + 1, row});
    }
    result.beside_which.push_back(std::int64_t(result.beside.size()) - 1);
    branches.back() = branches.back() || (parent >= 0 && parent != row - 1);
    positions.push_back(parent < 0 ? 0 : positions[std::size_t(parent)] + 1);
    result.depth = std::max(result.depth, positions.back() + 1);
  }
  for (std::size_t index = 0; index < result.trees.size(); ++index) {
    TokenTrees::Tree& tree = result.trees[index];
    if (branches[index]) tree.visible = visibility(parents_, tree.first, tree.size);
  }
  if (!rows.empty()) {
    auto next = rows.begin();
    for (TokenTrees::Tree& tree : result.trees) {
      const auto begin = next;
      while (next != rows.end() && *next >= tree.first && *next < tree.first + tree.size) ++next;
      tree.asked_first = begin - rows.begin(), tree.asked = next - begin;
    }
    require(next == rows.end(), "decoder", "rows that are asked for must be those of one tree after another, got row ",
            next == rows.end() ? 0 : *next, " out of turn");
    result.rows = at::tensor(rows, at::kLong);
  }
  result.tokens = at::tensor(tokens_, at::kLong);
  result.positions = at::tensor(positions, at::kLong);
  return result;
}

}  // namespace lmhead
