#include "lmhead/models/checkpoint_tensors.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>

#include <algorithm>
#include <cmath>

#include "lmhead/base/error.h"
#include "lmhead/base/printable_text.h"

namespace lmhead {
namespace {

constexpr std::string_view kBody = "model.", kLayers = "layers.";

/// Buffers that old checkpoints carry and that follow from the configuration.
bool is_harmless_buffer(std::string_view name) {
  for (const std::string_view suffix : {".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias",
                                        "rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"}) {
    if (name.ends_with(suffix)) return true;
  }
  return false;
}

/// The tensor itself where it is contiguous float32, else one copy, with no other on the way.
at::Tensor as_float(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kFloat && tensor.is_contiguous()) return tensor;
  return at::empty(tensor.sizes(), at::kFloat).copy_(tensor);
}

}  // namespace

StoredName stored_name(const FamilyModel& model, const std::string& body_prefix, const std::string& name) {
  std::string_view rest = name;
  rest.remove_prefix(kBody.size());
  std::string before = body_prefix;
  if (rest.starts_with(kLayers)) {
    const std::size_t end = rest.find('.', kLayers.size());
    before.append(model.layer_prefix).append(rest.substr(kLayers.size(), end + 1 - kLayers.size()));
    rest.remove_prefix(end + 1);
  }
  const std::size_t dot = rest.rfind('.');
  const std::string_view module = rest.substr(0, dot), field = rest.substr(dot);
  for (const NameRule& rule : model.rules) {
    if (rule.ours == module) return {before.append(rule.theirs).append(field), rule.layout, true};
  }
  return {before.append(rest), MatrixLayout::kPlain, false};
}

CheckpointTensors::CheckpointTensors(const TensorFolder& folder, const FamilyModel& model)
    : folder_(folder), model_(model), prefix_(model.body_prefixes.front()) {
  const auto has_body = [&](const std::string& prefix) {
    prefix_ = prefix;
    return folder_.contains(stored("model.layers.0.input_layernorm.weight").name) ||
           folder_.contains(stored("model.layers.0.post_attention_layernorm.weight").name);
  };
  if (std::none_of(model.body_prefixes.begin(), model.body_prefixes.end(), has_body)) {
    prefix_ = model.body_prefixes.front();
  }
}

/// The tensor as it is stored, finite in float32 too.
at::Tensor CheckpointTensors::take(const std::string& name, const std::vector<std::int64_t>& shape) {
  const SafetensorsFile& file = folder_.file_of(name);
  const SafetensorsEntry& entry = file.info(name);
  const auto must = [&](bool holds, const auto&... parts) {
    require(holds, "checkpoint", file.path().string(), ": tensor ", quote_for_message(name), " must ", parts...);
  };
  const bool is_known_type =
      entry.dtype == "F32" || entry.dtype == "F16" || entry.dtype == "BF16" || entry.dtype == "F64";
  must(is_known_type, "be F32, F16, BF16 or F64, got ", entry.dtype);
  must(entry.shape == shape, "have shape ", at::IntArrayRef(shape), ", got ", at::IntArrayRef(entry.shape));
  const at::Tensor value = file.tensor(name);
  if (value.numel() > 0) {
    const auto [low, high] = at::aminmax(value);  // both are NaN where any number is
    must(std::isfinite(float(low.item<double>())) && std::isfinite(float(high.item<double>())),
         "be finite, got NaN or infinity");
  }
  used_.insert(name);
  return value;
}

/// [q of head 0, k of head 0, v of head 0, q of head 1, ...] to [q, k, v] along the rows.
at::Tensor CheckpointTensors::split_heads(const at::Tensor& interleaved) const {
  const std::int64_t heads = model_.decoder.num_attention_heads, width = model_.decoder.head_dim;
  return interleaved.view({heads, 3, width, -1}).transpose(0, 1).reshape(interleaved.sizes());
}

at::Tensor CheckpointTensors::read(const std::string& name, const std::vector<std::int64_t>& shape,
                                   MatrixLayout layout) {
  if (layout == MatrixLayout::kTransposed && shape.size() == 2) return take(name, {shape[1], shape[0]}).t();
  const at::Tensor value = take(name, shape);
  return layout == MatrixLayout::kHeadsInterleaved ? split_heads(value) : value;
}

ParameterPtr CheckpointTensors::parameter(const std::string& name, ParameterKind kind,
                                          const std::vector<std::int64_t>& shape, const std::vector<RowPart>& parts) {
  const StoredName whole = stored(name);
  at::Tensor value;
  if (parts.empty() || whole.is_known) {
    const bool is_embedding = name == "model.embed_tokens.weight";
    std::string from = whole.name;
    if (is_embedding && model_.tie_word_embeddings && !folder_.contains(from)) {
      for (const std::string& head : model_.head_names)  // the one tied matrix may stand under the head's name
        if (folder_.contains(head)) from = head;
    }
    value = as_float(read(from, shape, whole.layout));
  } else {
    // All shapes are checked before there is memory for them: sizes that are no checkpoint's would take all there is.
    std::vector<at::Tensor> pieces;
    for (const RowPart& part : parts) {
      std::vector<std::int64_t> part_shape = shape;
      part_shape[0] = part.rows;
      const StoredName one = stored(part.name);
      pieces.push_back(read(one.name, part_shape, one.layout));
    }
    value = at::empty(shape, at::kFloat);
    std::int64_t row = 0;
    for (const at::Tensor& piece : pieces) {
      value.narrow(0, row, piece.size(0)).copy_(piece);
      row += piece.size(0);
    }
  }
  if (model_.norm_weights_plus_one && kind == ParameterKind::kVector) value = value + 1;
  return std::make_shared<Parameter>(Parameter{name, kind, value, value, parts});
}

at::Tensor CheckpointTensors::head(const at::Tensor& embedding) {
  const std::vector<std::int64_t> shape = embedding.sizes().vec();
  const auto& names = model_.head_names;
  const auto place = std::find_if(names.begin(), names.end(), [&](const auto& name) { return folder_.contains(name); });
  if (!model_.tie_word_embeddings) return as_float(take(place == names.end() ? names.front() : *place, shape));
  if (place == names.end() || used_.contains(*place)) return embedding;
  require(at::equal(as_float(take(*place, shape)), embedding), "checkpoint", folder_.path().string(), ": tensor ",
          quote_for_message(*place), " must equal the embedding where tie_word_embeddings is true, got another matrix");
  return embedding;
}

void CheckpointTensors::check_all_used() const {
  for (const std::string& name : folder_.names()) {
    const auto is_prefix = [&](const std::string& prefix) { return name.starts_with(prefix); };
    if (used_.contains(name) || is_harmless_buffer(name) ||
        std::any_of(model_.ignored_prefixes.begin(), model_.ignored_prefixes.end(), is_prefix)) {
      continue;
    }
    fail("checkpoint", folder_.file_of(name).path().string(), ": every tensor must have a place in the model, got ",
         quote_for_message(name), ", which has none");
  }
}

}  // namespace lmhead
