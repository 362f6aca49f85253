// Words in classes: heads whose rows stand in an order of their own, a class being a run of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "lmhead/base/module.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {

/// Which rows of a matrix [V, ...] stand for which words, and where classes lie among them.
struct WordLayout {
  at::Tensor ids;                    // [V] int64, the word of each row
  at::Tensor rows;                   // [V] int64, the row of each word
  std::vector<std::int64_t> sizes;   // [C] rows of each class
  std::vector<std::int64_t> begins;  // [C + 1] where each begins, and V
  at::Tensor classes;                // [V] int64, the class of each word

  std::int64_t count() const { return std::int64_t(sizes.size()); }
};

/// The layout that two constants of a model tell, made anew where a checkpoint has been read into them. Safe to ask
/// from several threads.
class WordClasses {
 public:
  WordClasses() = default;
  /// `order` [V] holds the word of each row, `sizes` [C] how many rows are each class's; null: all are of one class.
  WordClasses(ParameterPtr order, ParameterPtr sizes);
  /// Throws where the constants are no order of all words cut into classes.
  std::shared_ptr<const WordLayout> layout() const;

 private:
  struct Cache;
  ParameterPtr order_, sizes_;
  std::shared_ptr<Cache> cache_;
};

/// Tokens sorted by the class of their targets; of a class in their own order.
struct ClassGroups {
  struct Group {
    std::int64_t index, first, count;  // the class, and where its tokens stand in `order`
  };
  std::vector<Group> groups;  // of classes that have tokens, ascending
  at::Tensor classes;         // [N] int64, of the tokens as they came
  at::Tensor order;           // [N] int64, the token at each place
  at::Tensor places;          // [N] int64, the place of each token
  at::Tensor within;          // [N] int64, by place: the target's row, counted from its class's first
};
ClassGroups group_by_class(const at::Tensor& targets, const WordLayout& layout);

/// 0 in the type of `tensor`, which gets a gradient of zeros from it rather than none.
at::Tensor no_part_of(const at::Tensor& tensor);

/// -log p(y | class of y) of every token, where p is the softmax over the class's rows alone: 0-dim for the sum, [N]
/// in the order of the tokens for none. A pass a class over slices of `weight` [V, D], whose rows are those of the
/// layout; nothing of it is copied. Memory: the features once more, and of `weight` its gradient twice.
at::Tensor within_class_losses(const at::Tensor& hidden, const at::Tensor& weight, const WordLayout& layout,
                               const ClassGroups& groups, Reduction reduction);

}  // namespace lmhead
