#include "lmhead/models/checkpoint_tensors.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>

#include <algorithm>
#include <cmath>

#include "lmhead/base/error.h"
#include "lmhead/base/memory.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/base/scratch_tensor.h"

namespace lmhead {
namespace {

constexpr std::string_view kBody = "model.", kLayers = "layers.";
constexpr double kAskedFor = 64 << 20;  // bytes of a tensor before which it is asked whether there is so much memory

/// Buffers that old checkpoints carry and that follow from the configuration.
bool is_harmless_buffer(std::string_view name) {
  for (const std::string_view suffix : {".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias",
                                        "rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"}) {
    if (name.ends_with(suffix)) return true;
  }
  return false;
}

/// Whether a tensor has no place in the model and needs none.
bool is_ignored(const FamilyModel& model, const std::string& name) {
  const auto is_prefix = [&](const std::string& prefix) { return name.starts_with(prefix); };
  return is_harmless_buffer(name) ||
         std::any_of(model.ignored_prefixes.begin(), model.ignored_prefixes.end(), is_prefix);
}

/// The shape in which a checkpoint keeps a matrix of ours.
std::vector<std::int64_t> stored_shape(const std::vector<std::int64_t>& shape, MatrixLayout layout) {
  if (layout == MatrixLayout::kTransposed && shape.size() == 2) return {shape[1], shape[0]};
  return shape;
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

CheckpointTensors::CheckpointTensors(const TensorFolder& folder, const FamilyModel& model, at::ScalarType type,
                                     at::ScalarType table_type)
    : folder_(folder), model_(model), type_(type), table_type_(table_type), prefix_(model.body_prefixes.front()) {
  const auto has_body = [&](const std::string& prefix) {
    prefix_ = prefix;
    return folder_.contains(stored("model.layers.0.input_layernorm.weight").name) ||
           folder_.contains(stored("model.layers.0.post_attention_layernorm.weight").name);
  };
  if (std::none_of(model.body_prefixes.begin(), model.body_prefixes.end(), has_body)) {
    prefix_ = model.body_prefixes.front();
  }
}

at::ScalarType CheckpointTensors::type_of(ParameterKind kind) const {
  if (kind == ParameterKind::kVector) return at::kFloat;
  return kind == ParameterKind::kEmbedding ? table_type_ : type_;
}

void CheckpointTensors::require_memory_for_all() const {
  double numbers = 0;
  for (const std::string& name : folder_.names()) {
    if (is_ignored(model_, name)) continue;
    double product = 1;
    for (const std::int64_t size : folder_.info(name).shape) product *= double(size);
    numbers += product;
  }
  require_memory("checkpoint", "the weights of " + folder_.path().string(), numbers * double(c10::elementSize(type_)));
}

/// Throws where the tensor is not there in this shape and a type that can become another.
void CheckpointTensors::check(const std::string& name, const std::vector<std::int64_t>& shape) const {
  const SafetensorsFile& file = folder_.file_of(name);
  const SafetensorsEntry& entry = file.info(name);
  const auto must = [&](bool holds, const auto&... parts) {
    require(holds, "checkpoint", file.path().string(), ": tensor ", quote_for_message(name), " must ", parts...);
  };
  const bool is_known_type =
      entry.dtype == "F32" || entry.dtype == "F16" || entry.dtype == "BF16" || entry.dtype == "F64";
  must(is_known_type, "be F32, F16, BF16 or F64, got ", entry.dtype);
  must(entry.shape == shape, "have shape ", at::IntArrayRef(shape), ", got ", at::IntArrayRef(entry.shape));
}

at::Tensor CheckpointTensors::allocate(const std::string& name, const std::vector<std::int64_t>& shape,
                                       at::ScalarType type, const std::optional<std::filesystem::path>& folder) const {
  double bytes = double(c10::elementSize(type));
  for (const std::int64_t size : shape) bytes *= double(size);
  if (!folder && bytes >= kAskedFor) require_memory("checkpoint", name + " of " + folder_.path().string(), bytes);
  return scratch_tensor(shape, type, folder);
}

/// Reads a tensor that was checked into one of another type, where all of it is finite. Whoever reads it again sees to
/// it that the file is the same.
void CheckpointTensors::take(const std::string& name, const at::Tensor& into) {
  folder_.read_into(name, into);
  bool& is_finite = used_[name];
  if (!is_finite) require_finite(name, into);
  is_finite = true;
}

void CheckpointTensors::require_finite(const std::string& name, const at::Tensor& values) const {
  if (values.numel() == 0) return;
  const auto [low, high] = at::aminmax(values);  // both are NaN where any number is
  require(std::isfinite(low.item<float>()) && std::isfinite(high.item<float>()), "checkpoint",
          folder_.file_of(name).path().string(), ": tensor ", quote_for_message(name),
          " must be finite, got NaN or infinity");
}

at::Tensor CheckpointTensors::take(const std::string& name, const std::vector<std::int64_t>& shape, at::ScalarType type,
                                   const std::optional<std::filesystem::path>& folder) {
  check(name, shape);
  at::Tensor value = allocate(name, shape, type, folder);
  take(name, value);
  return value;
}

/// Reads a tensor that was checked into a matrix of ours. Memory: a copy where the layout is another.
void CheckpointTensors::read(const std::string& name, MatrixLayout layout, const at::Tensor& into) {
  const bool is_plain = layout == MatrixLayout::kPlain || (layout == MatrixLayout::kTransposed && into.dim() < 2);
  if (is_plain) return take(name, into);
  const at::Tensor value = take(name, stored_shape(into.sizes().vec(), layout), into.scalar_type());
  if (layout == MatrixLayout::kTransposed) {
    at::Tensor(into).copy_(value.t());
  } else if (layout == MatrixLayout::kPairsInterleaved) {  // of each head all first elements of pairs, then the second
    const std::int64_t width = model_.decoder.head_dim;
    into.view({-1, 2, width / 2, into.numel() / into.size(0)})
        .copy_(value.view({-1, width / 2, 2, into.numel() / into.size(0)}).transpose(1, 2));
  } else {  // [q of head 0, k of head 0, v of head 0, q of head 1, ...] becomes [q, k, v] along the rows
    const std::int64_t heads = model_.decoder.num_attention_heads, width = model_.decoder.head_dim;
    into.view({3, heads, width, -1}).copy_(value.view({heads, 3, width, -1}).transpose(0, 1));
  }
}

std::vector<CheckpointTensors::Piece> CheckpointTensors::pieces_of(const std::string& name,
                                                                   const std::vector<std::int64_t>& shape,
                                                                   const std::vector<RowPart>& parts) const {
  std::vector<Piece> pieces;
  if (const StoredName whole = stored(name); parts.empty() || whole.is_known) {
    pieces.push_back({whole, shape});
    if (name == "model.embed_tokens.weight" && model_.tie_word_embeddings && !folder_.contains(whole.name)) {
      for (const std::string& head : model_.head_names)  // the one tied matrix may stand under the head's name
        if (folder_.contains(head)) pieces.front().from.name = head;
    }
    return pieces;
  }
  for (const RowPart& part : parts) {
    pieces.push_back({stored(part.name), shape});
    pieces.back().shape[0] = part.rows;
  }
  return pieces;
}

void CheckpointTensors::check(const std::vector<Piece>& pieces) const {
  for (const Piece& piece : pieces) check(piece.from.name, stored_shape(piece.shape, piece.from.layout));
}

ParameterPtr CheckpointTensors::parameter(const std::string& name, ParameterKind kind,
                                          const std::vector<std::int64_t>& shape, const std::vector<RowPart>& parts) {
  const std::vector<Piece> pieces = pieces_of(name, shape, parts);
  // All shapes are checked before there is memory for them: sizes that are no checkpoint's would take all there is.
  check(pieces);
  at::Tensor value =
      allocate(name, shape, type_of(kind), kind == ParameterKind::kEmbedding ? tables_folder_ : std::nullopt);
  std::int64_t row = 0;
  for (const Piece& piece : pieces) {
    read(piece.from.name, piece.from.layout, value.narrow(0, row, piece.shape[0]));
    row += piece.shape[0];
  }
  const bool is_norm_weight = kind == ParameterKind::kVector && name.ends_with(".weight");
  if (model_.norm_weights_plus_one && is_norm_weight) value = value + 1;
  return std::make_shared<Parameter>(Parameter{name, kind, value, value, parts});
}

ParameterPtr CheckpointTensors::promised_parameter(const std::string& name, ParameterKind kind,
                                                   const std::vector<std::int64_t>& shape,
                                                   const std::vector<RowPart>& parts) {
  const std::vector<Piece> pieces = pieces_of(name, shape, parts);
  check(pieces);
  for (const Piece& piece : pieces) used_.try_emplace(piece.from.name);
  const at::Tensor value = at::empty(shape, at::TensorOptions().device(at::kMeta).dtype(type_of(kind)));
  return std::make_shared<Parameter>(Parameter{name, kind, value, value, parts});
}

std::vector<std::string> CheckpointTensors::tensors_of(const std::string& name,
                                                       const std::vector<RowPart>& parts) const {
  std::vector<std::string> names;
  for (const Piece& piece : pieces_of(name, {0}, parts)) names.push_back(piece.from.name);
  return names;
}

at::Tensor CheckpointTensors::rows(const std::string& name, const std::vector<std::int64_t>& ids) {
  const std::string from = stored(name).name;
  const SafetensorsFile& file = folder_.file_of(from);
  at::Tensor rows = at::empty({std::int64_t(ids.size()), file.info(from).shape.at(1)}, table_type_);
  for (std::size_t first = 0, end = 0; first < ids.size(); first = end) {  // consecutive rows are read at once
    for (end = first + 1; end < ids.size() && ids[end] == ids[end - 1] + 1;) ++end;
    const auto count = std::int64_t(end - first);
    rows.narrow(0, std::int64_t(first), count).copy_(file.rows(from, ids[first], count));
  }
  require_finite(from, rows);
  return rows;
}

at::Tensor CheckpointTensors::head(const at::Tensor& embedding) {
  const std::vector<std::int64_t> shape = embedding.sizes().vec();
  const auto& names = model_.head_names;
  const auto place = std::find_if(names.begin(), names.end(), [&](const auto& name) { return folder_.contains(name); });
  if (!model_.tie_word_embeddings)
    return take(place == names.end() ? names.front() : *place, shape, table_type_, tables_folder_);
  if (place == names.end() || used_.contains(*place)) return embedding;
  require(at::equal(take(*place, shape, table_type_, tables_folder_), embedding), "checkpoint", folder_.path().string(),
          ": tensor ", quote_for_message(*place),
          " must equal the embedding where tie_word_embeddings is true, got another matrix");
  return embedding;
}

void CheckpointTensors::check_all_used() const {
  for (const std::string& name : folder_.names()) {
    if (used_.contains(name) || is_ignored(model_, name)) continue;
    fail("checkpoint", folder_.file_of(name).path().string(), ": every tensor must have a place in the model, got ",
         quote_for_message(name), ", which has none");
  }
}

}  // namespace lmhead
