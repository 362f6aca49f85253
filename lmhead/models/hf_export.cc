#include "lmhead/models/hf_export.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/models/checkpoint_tensors.h"
#include "lmhead/models/hf_classes.h"
#include "lmhead/models/safetensors.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

constexpr const char* kConfig = "config.json";
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kGeneration = "generation_config.json";
constexpr const char* kTokenizer = "tokenizer.json";
constexpr const char* kTokenizerConfig = "tokenizer_config.json";
// Tells our folders from others': whoever saves a fine-tuned model over an export leaves it out.
const std::map<std::string, std::string> kMetadata = {{"format", "pt"}, {"exported_by", "lmhead"}};

/// Whether everything in the folder was written by an earlier export.
bool is_export(const fs::path& folder) {
  constexpr std::array kFiles = {kConfig, kWeights, kGeneration, kTokenizer, kTokenizerConfig};
  for (const auto& entry : fs::directory_iterator(folder))
    if (std::find(kFiles.begin(), kFiles.end(), entry.path().filename().string()) == kFiles.end()) return false;
  if (!fs::exists(folder / kWeights)) return fs::is_empty(folder);
  try {
    return SafetensorsFile::open(folder / kWeights).metadata() == kMetadata;
  } catch (const Error&) {
    return false;
  }
}

/// Where `folder` really is, if it may be written: a way through folders that are yet to be made, or a link, must not
/// lead to anything unchecked.
fs::path checked_target(const fs::path& folder) {
  require(!folder.empty(), "export", "the folder must have a name, got none");
  const fs::path whole = fs::weakly_canonical(fs::absolute(folder));
  const fs::path target = whole.has_filename() ? whole : whole.parent_path();
  if (!fs::exists(fs::symlink_status(target))) return target;
  require(fs::is_directory(target) && is_export(target), "export", target.string(),
          " must be absent, empty or an earlier export, got something else, which is left alone");
  return target;
}

void check_head(const LinearMap& head, const char* architecture) {
  require(
      !head.bias.defined(), "export", "head.bias must be false for ", architecture,
      ", whose logits have none, got true; train without it, or use the run itself, which lmhead measure and lmhead "
      "sample read as it is");
  require(head.transform.softcap == 0, "export", "head.logit_softcap must be 0 for ", architecture,
          ", which has none, got ", head.transform.softcap,
          "; train without it, or use the run itself, which lmhead measure and lmhead sample read as it is");
  require(!bends_logits(head.transform), "export", "logits must be linear for ", architecture,
          ", which has no other map",
          "; train without it, or use the run itself, which lmhead measure and lmhead sample read as it is");
}

/// The decoder as its class has it: the same parameters, and zeros for biases that ours does not have.
Decoder as_class(const Decoder& decoder, const DecoderSpecification& specification) {
  return Decoder(specification, [&](const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape,
                                    const Initializer&, const std::vector<RowPart>& parts) {
    for (const ParameterPtr& parameter : decoder.parameters())
      if (parameter->name == name) return parameter;
    require(kind == ParameterKind::kBias, "export", "the model must have ", name, ", got none");
    const at::Tensor zeros = at::zeros(shape);
    return std::make_shared<Parameter>(Parameter{name, kind, zeros, zeros, parts});
  });
}

/// What is read back must be what was written, or the class was described wrongly.
void check_description(const DecoderSpecification& ours, DecoderSpecification theirs, const char* architecture) {
  theirs.query_key_value_bias = ours.query_key_value_bias;
  theirs.attention_output_bias = ours.attention_output_bias;
  theirs.mlp_bias = ours.mlp_bias;
  theirs.initializer_range = ours.initializer_range;
  theirs.residual_initializer_range = ours.residual_initializer_range;
  require(theirs == ours, "export", "the model must be one that ", architecture, " expresses, got one that differs");
}

at::Tensor laid_out(const at::Tensor& value, MatrixLayout layout, const DecoderSpecification& s) {
  if (layout == MatrixLayout::kTransposed && value.dim() == 2) return value.t();
  if (layout != MatrixLayout::kHeadsInterleaved) return value;
  return value.reshape({3, s.num_attention_heads, s.head_dim, -1}).transpose(0, 1).reshape(value.sizes());
}

NamedTensors class_tensors(const Decoder& decoder, const FamilyModel& family) {
  NamedTensors tensors;
  const std::string& prefix = family.body_prefixes.front();
  const Decoder written = as_class(decoder, family.decoder);
  for (const ParameterPtr& parameter : written.parameters()) {
    const at::Tensor value = parameter->value.detach();
    const StoredName whole = stored_name(family, prefix, parameter->name);
    if (parameter->parts.empty() || whole.is_known) {
      tensors.emplace_back(whole.name, laid_out(value, whole.layout, family.decoder));
      continue;
    }
    std::int64_t row = 0;
    for (const RowPart& part : parameter->parts) {
      tensors.emplace_back(stored_name(family, prefix, part.name).name, value.narrow(0, row, part.rows));
      row += part.rows;
    }
  }
  return tensors;
}

/// How transformers reads the tokenizer; the text of the end token comes from the tokenizer itself.
Json tokenizer_configuration(const std::string& tokenizer, const HfExportOptions& options) {
  Json json = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const nlohmann::json content = parse_foreign_json(tokenizer, options.tokenizer->string());
  if (!options.end_token || !content.is_object() || !content.contains("added_tokens")) return json;
  for (const nlohmann::json& token : content["added_tokens"]) {
    const bool is_end = token.is_object() && token.value("id", nlohmann::json()) == *options.end_token;
    if (is_end && token.contains("content") && token["content"].is_string())
      json["eos_token"] = token["content"].get<std::string>();
  }
  return json;
}

}  // namespace

std::string export_to_hf(const Decoder& decoder, const LinearMap& head, const fs::path& folder,
                         const HfExportOptions& options) {
  at::NoGradGuard no_grad;
  const DecoderSpecification& specification = decoder.specification();
  const fs::path target = checked_target(folder);
  const HfClass& hf_class = hf_class_of(specification);
  check_head(head, hf_class.architecture);
  const bool is_tied = head.transform.scale == 1 && head.weight.is_alias_of(decoder.embedding()->value);

  Json config = {{"architectures", {hf_class.architecture}}};
  config.update(hf_class.configuration(specification));
  config["tie_word_embeddings"] = is_tied;
  if (specification.position_embeddings == 0) config["max_position_embeddings"] = options.max_position_embeddings;
  config["bos_token_id"] = nullptr;  // the classes have ids of their own otherwise
  config["eos_token_id"] = options.end_token ? Json(*options.end_token) : Json(nullptr);
  config["dtype"] = "float32";

  const FamilyModel family = describe_model(HfConfiguration(config.dump(), kConfig));
  check_description(specification, family.decoder, hf_class.architecture);
  NamedTensors tensors = class_tensors(decoder, family);
  if (!is_tied)
    tensors.emplace_back(family.head_names.front(),
                         head.transform.scale == 1 ? head.weight : head.weight * head.transform.scale);

  Json generation = {{"do_sample", false}};
  if (options.end_token) generation["eos_token_id"] = *options.end_token;
  replace_directory_atomic(target, [&](const fs::path& temporary) {
    const auto write = [&](const char* name, const Json& json) {
      write_file_atomic(temporary / name, json.dump(2) + "\n");
    };
    write(kConfig, config);
    write(kGeneration, generation);
    write_safetensors(temporary / kWeights, tensors, kMetadata);
    if (!options.tokenizer) return;
    const std::string tokenizer = read_file(*options.tokenizer);
    write_file_atomic(temporary / kTokenizer, tokenizer);
    write(kTokenizerConfig, tokenizer_configuration(tokenizer, options));
  });
  return hf_class.architecture;
}

}  // namespace lmhead
