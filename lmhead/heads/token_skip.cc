// The linear head beside a table of n-grams, which speaks to the logits past the body.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/full_like.h>

#include "lmhead/base/error.h"
#include "lmhead/heads/head_list.h"
#include "lmhead/heads/joined_words.h"
#include "lmhead/heads/mapped_head.h"

namespace lmhead {
namespace {

struct TokenSkipOptions : HeadOptions {
  std::int64_t width = 16;
  std::int64_t order = 1;
  std::optional<std::int64_t> buckets;
  void visit_fields(FieldVisitor& visitor) override {
    visitor.field("width", width, "k, of the table's rows", between(1, kMostHeadSize));
    visitor.field("order", order, "n, how many tokens of the context name a row", between(1, 3));
    visitor.field("buckets", buckets,
                  "rows of the table; n-grams beyond one token are hashed into them; null: vocab_size of order 1, "
                  "4 vocab_size of the others",
                  between(1, 2147483647));
  }
};

/// z = W h + W_2 e(x_(t-n+1) ... x_t): one linear map [W, W_2] of [h, e], one parameter unless W is the embedding. What
/// lies in another document or before the sequence is a token of its own to the n-gram.
class TokenSkipHead : public MappedHead {
 public:
  TokenSkipHead(const TokenSkipOptions& options, const HeadContext& context)
      : MappedHead(context.hidden_size, context.vocab_size),
        order_(options.order),
        width_(options.width),
        buckets_(options.buckets.value_or(context.vocab_size * (options.order == 1 ? 1 : 4))),
        words_(joined_words(context, width_, "lm_head.skip_proj.weight")) {
    own(words_.own());
    // W_2 begins at zero, so that the head begins as the linear one; rows of the table have unit square mean.
    table_ = own(context.parameter("lm_head.skip_table.weight", {buckets_, options.width}, normal_initializer(1),
                                   ParameterKind::kEmbedding));
  }

  HeadNeeds needs() const override { return {.tokens = true}; }
  double flops_per_token(std::int64_t) const override {
    return 6 * double(vocab_size()) * double(hidden_size() + width_);
  }
  double memory_per_token(std::int64_t) const override {
    return 2 * double(hidden_size() + width_);  // [h, e] and its gradient
  }

 private:
  /// The table's row of every token, [N].
  at::Tensor rows(const HeadInput& input) const {
    at::Tensor hash = input.tokens;
    for (std::int64_t back = 1; back < order_; ++back) {
      // Products stay below 2^63: a row number times a prime of 20 bits.
      hash = hash.remainder(buckets_) * kPrime + earlier(input, back) + 1;
    }
    return hash.remainder(buckets_).reshape({-1});
  }
  /// The ids `back` places before each, [B, T]; vocab_size where there is none in the same document.
  at::Tensor earlier(const HeadInput& input, std::int64_t back) const {
    const std::int64_t length = input.tokens.size(1);
    at::Tensor ids = at::full_like(input.tokens, vocab_size());
    if (back >= length) return ids;
    const std::int64_t kept = length - back;
    at::Tensor there = input.tokens.narrow(1, 0, kept);
    if (input.documents.defined())
      there =
          there.masked_fill(input.documents.narrow(1, 0, kept).ne(input.documents.narrow(1, back, kept)), vocab_size());
    ids.narrow(1, back, kept).copy_(there);
    return ids;
  }
  at::Tensor map_features(const HeadInput& input) const override {
    const at::Tensor hidden = input.select(input.hidden);
    const at::Tensor skipped = at::embedding(table_->working, input.select(rows(input)));
    return at::cat({hidden, skipped.to(hidden.scalar_type())}, 1);
  }
  LinearMap working_map() const override { return {words_.working()}; }

  static constexpr std::int64_t kPrime = 1000003;
  std::int64_t order_, width_, buckets_;
  JoinedWords words_;
  ParameterPtr table_;
};

}  // namespace

HeadKind token_skip_head() {
  return describe_head<TokenSkipHead, TokenSkipOptions>(
      "token_skip", "z = W h + W_2 e(x_(t-n+1) ... x_t), e: a hashed table of width k, W_2: V x k",
      "1 + k / D: 6 V (D + k) operations a token",
      "2 (D + k) numbers a token, and where W is the embedding a copy of V (D + k) weights",
      "bigram tables of training speed records, which add them to the features; here past the body");
}

}  // namespace lmhead
