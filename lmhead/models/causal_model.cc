#include "lmhead/models/causal_model.h"

namespace lmhead {
namespace {

HeadContext head_context(const DecoderOptions& options, const Decoder& decoder, std::int64_t vocab_size,
                         const ParameterFactory& factory) {
  return {options.hidden_size, vocab_size, factory, options.initializer_range,
          options.tie_word_embeddings ? decoder.embedding() : nullptr};
}

}  // namespace

CausalModel::CausalModel(const DecoderOptions& options, const HeadSpecification& specification, std::int64_t vocab_size,
                         std::uint64_t seed)
    : decoder(options.specification(vocab_size), fresh_parameters(seed)),
      head(specification.make(head_context(options, decoder, vocab_size, ParameterFactory(seed)))) {}

ParameterList CausalModel::parameters() const {
  ParameterList all = decoder.parameters();
  all.insert(all.end(), head->parameters().begin(), head->parameters().end());
  return all;
}

std::vector<std::pair<std::string, at::Tensor>> named_tensors(const ParameterList& parameters) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const ParameterPtr& parameter : parameters) {
    const at::Tensor value = parameter->value.detach();
    if (parameter->parts.empty()) tensors.emplace_back(parameter->name, value);
    std::int64_t row = 0;
    for (const RowPart& part : parameter->parts) {
      tensors.emplace_back(part.name, value.narrow(0, row, part.rows));
      row += part.rows;
    }
  }
  return tensors;
}

}  // namespace lmhead
