#include "lmhead/heads/joined_words.h"

#include <ATen/ops/cat.h>

#include "lmhead/base/random.h"

namespace lmhead {
namespace {

Initializer begin_linear(std::int64_t hidden_size, double deviation) {
  return [hidden_size, deviation](at::Tensor& tensor, RandomStream& stream) {
    const std::int64_t columns = tensor.size(1);
    auto* values = tensor.mutable_data_ptr<float>();
    for (std::int64_t index = 0; index < tensor.numel(); ++index)
      values[index] = index % columns < hidden_size ? float(deviation * stream.normal()) : 0;
  };
}

}  // namespace

at::Tensor JoinedWords::value() const { return beside ? at::cat({weight->value, beside->value}, 1) : weight->value; }

at::Tensor JoinedWords::working() const {
  return beside ? at::cat({weight->working, beside->working}, 1) : weight->working;
}

JoinedWords joined_words(const HeadContext& context, std::int64_t width, const std::string& name) {
  const std::int64_t words = context.vocab_size, hidden = context.hidden_size;
  if (context.tied_embedding)
    return {context.tied_embedding, context.parameter(name, {words, width}, constant_initializer(0))};
  return {context.parameter("lm_head.weight", {words, hidden + width}, begin_linear(hidden, context.initializer_range)),
          nullptr};
}

}  // namespace lmhead
