// Features and further numbers of a pass over logits that are made block by block of rows, so that those of all tokens
// never stand together.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace lmhead {

struct LogitPass;

/// How they are made, with autograd. Of a large block features alone are kept while its logits are worked at; when
/// these have a gradient, rows are made again, part by part, for it to be taken back to what they are made of.
struct MadeRows {
  struct Block {
    std::vector<at::Tensor> features;  // C times [n, D] for n tokens
    at::Tensor further;                // [n, S]
  };
  using Tensors = std::vector<at::Tensor>;

  Tensors by_token;  // what each token has of its own, [N, ...] each
  Tensors shared;    // parameters, and whatever else all tokens see
  /// The rows of tokens [first, first + count); `by_token` holds theirs alone. Called from any thread.
  std::function<Block(std::int64_t first, std::int64_t count, const Tensors& by_token, const Tensors& shared)> make;
  std::int64_t further_count = 0;  // S
  /// int64 [R]: rows of the map's weight that `make` finds before all else in `shared`. Their gradient is added to the
  /// weight's, which a lookup of one's own would have stand twice.
  at::Tensor map_rows;

  Tensors inputs() const;  // by_token and shared, in this order
};

/// One pass with such rows. A block's gradients go to `by_token` as they are; those of `shared` are added up in
/// float32, or float64 for float64, in an order that depends on shapes and the number of threads alone.
class MadeRowsPass {
 public:
  /// `wanted` of `inputs()`; `further` [N, S] float64 is filled. To be made where autograd is as `make` shall find it.
  MadeRowsPass(const MadeRows& made, std::vector<bool> wanted, at::Tensor further);
  MadeRowsPass(const MadeRowsPass&) = delete;
  MadeRowsPass& operator=(const MadeRowsPass&) = delete;

  /// Lets `pass`, which must not outlive this, make its rows.
  void make_rows_of(LogitPass& pass);
  /// Lets it take gradients back too: `scale` times `by_further` [N, S] float64, which is read when a block is done, is
  /// that by further numbers.
  void take_gradients_of(LogitPass& pass, const at::Tensor& by_further, double scale);
  /// Of `inputs()`, in their types; undefined where not wanted.
  std::vector<at::Tensor> gradients();

 private:
  struct Made {
    MadeRows::Tensors leaves;  // what the block is made of
    MadeRows::Block block;
  };
  Made make(std::int64_t first, std::int64_t count) const;
  MadeRows::Tensors make_features(std::int64_t first, std::int64_t count, std::int64_t part, Made& kept) const;
  void take_back(const Made& made, std::int64_t first, std::int64_t count, const MadeRows::Tensors& by_features,
                 const at::Tensor& by_further, MadeRows::Tensors& sums);

  const MadeRows& made_;
  std::vector<bool> wanted_;
  at::Tensor further_;
  c10::impl::LocalDispatchKeySet keys_;
  MadeRows::Tensors by_token_;           // gradients
  std::vector<MadeRows::Tensors> sums_;  // [slots], of those of `shared`
  std::vector<Made> kept_;               // [slots], of blocks that are one part
  bool takes_gradients_ = false;
};

}  // namespace lmhead
