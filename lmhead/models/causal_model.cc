#include "lmhead/models/causal_model.h"

#include <ATen/ops/empty_like.h>

#include <algorithm>

#include "lmhead/base/error.h"
#include "lmhead/models/safetensors.h"

namespace lmhead {
CausalModel::CausalModel(const DecoderOptions& options, const HeadSpecification& specification, std::int64_t vocab_size,
                         const ParameterSource& source, const std::function<at::Tensor()>& token_counts,
                         const std::function<std::vector<std::string>()>& token_bytes, const Processes& word_processes)
    : decoder(options.specification(vocab_size), source),
      head(specification.make({.hidden_size = options.hidden_size,
                               .vocab_size = vocab_size,
                               .source = source,
                               .initializer_range = options.initializer_range,
                               .tied_embedding = options.tie_word_embeddings ? decoder.embedding() : nullptr,
                               .num_hidden_layers = options.num_hidden_layers,
                               .token_counts = token_counts,
                               .token_bytes = token_bytes,
                               .read_trained_matrix = read_trained_matrix,
                               .word_processes = word_processes})) {
  decoder.share_words(word_processes);
}

CausalModel::CausalModel(const DecoderOptions& options, const HeadSpecification& specification, std::int64_t vocab_size,
                         std::uint64_t seed)
    : CausalModel(options, specification, vocab_size, fresh_parameters(seed)) {}

ParameterList CausalModel::word_rows() const {
  ParameterList rows = head->word_rows();
  if (std::ranges::find(rows, decoder.embedding()) == rows.end()) rows.insert(rows.begin(), decoder.embedding());
  return rows;
}

ParameterList CausalModel::parameters() const {
  ParameterList all = decoder.parameters();
  all.insert(all.end(), head->parameters().begin(), head->parameters().end());
  return all;
}

HeadInput run_decoder(const Decoder& decoder, const LmHead& head, const at::Tensor& tokens,
                      std::optional<std::int64_t> end_of_document, std::vector<at::Tensor>* layers) {
  const HeadNeeds needs = head.needs();
  std::vector<at::Tensor> own_layers;
  if (!layers && !needs.layers.empty()) layers = &own_layers;
  HeadInput input{.hidden = decoder.forward(tokens, layers), .tokens = tokens};
  for (const std::int64_t block : needs.layers) input.layers.push_back(layers->at(std::size_t(block)));
  if (needs.tokens) input.documents = documents_of(tokens, end_of_document);
  return input;
}

at::Tensor read_trained_matrix(const std::string& path) {
  require(!path.empty(), "head", "weights must name a checkpoint's model.safetensors for by = kmeans, got none");
  const SafetensorsFile file = SafetensorsFile::open(path);
  constexpr const char *kOwn = "lm_head.weight", *kEmbedding = "model.embed_tokens.weight",
                       *kOrder = "lm_head.word_order";
  if (file.contains(kOwn)) {
    const at::Tensor matrix = file.tensor(kOwn).to(at::kFloat);
    // Heads that lay words out in classes keep rows in the order of these.
    return file.contains(kOrder) ? at::empty_like(matrix).index_copy_(0, file.tensor(kOrder).to(at::kLong), matrix)
                                 : matrix;
  }
  if (file.contains(kEmbedding)) return file.tensor(kEmbedding).to(at::kFloat);
  fail("head", path, " must hold lm_head.weight or model.embed_tokens.weight, got neither");
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
