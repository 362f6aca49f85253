// Heads as a class of torch, torch.classes.lmhead.Head, whose parameters are held by Python.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <torch/custom_class.h>

#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/data/token_bytes.h"
#include "lmhead/heads/head_description.h"

namespace lmhead {
namespace {

using Tensors = std::vector<at::Tensor>;
using MaybeTensor = std::optional<at::Tensor>;

const char* name_of(ParameterKind kind) {
  switch (kind) {
    case ParameterKind::kVector:
      return "vector";
    case ParameterKind::kConstant:
      return "constant";
    default:
      return "matrix";
  }
}

void require_ids(const at::Tensor& ids, const char* what, std::int64_t vocab_size, bool may_be_ignored) {
  require(ids.scalar_type() == at::kLong, "head", what, " must be int64, got ", ids.scalar_type());
  if (ids.numel() == 0) return;
  const at::Tensor counted = may_be_ignored ? ids.masked_fill(ids.eq(-100), 0) : ids;
  const auto low = counted.min().item<std::int64_t>(), high = counted.max().item<std::int64_t>();
  require(low >= 0 && high < vocab_size, "head", what, " must be at least 0 and below vocab_size ", vocab_size,
          ", got ", low < 0 ? low : high);
}

/// Texts that lie one behind another in uint8 [bytes] and end where int64 [count] says.
std::vector<std::string> texts_of(const Tensors& packed) {
  require(packed.size() == 2, "head", "token_bytes must be bytes and where they end, got ", packed.size(), " tensors");
  const at::Tensor bytes = packed[0].contiguous(), ends = packed[1].contiguous();
  const auto* from = reinterpret_cast<const char*>(bytes.const_data_ptr<std::uint8_t>());
  std::vector<std::string> texts;
  std::int64_t begin = 0;
  for (std::int64_t index = 0; index < ends.numel(); ++index) {
    const std::int64_t end = ends.const_data_ptr<std::int64_t>()[index];
    require(begin <= end && end <= bytes.numel(), "head", "token_bytes must end in their order, got ", end);
    texts.emplace_back(from + begin, from + end);
    begin = end;
  }
  return texts;
}

/// What a call of Python's gives beside parameters.
struct Pass {
  at::Tensor hidden;
  MaybeTensor tokens;
  Tensors layers;
  MaybeTensor documents, rows;
  std::vector<std::int64_t> step;  // seed, step, steps, part
};

class HeadClass : public torch::CustomClassHolder {
 public:
  /// `options` as in a configuration, as JSON. Without a seed parameters have no values: they will be given.
  HeadClass(const std::string& options, std::int64_t hidden_size, std::int64_t vocab_size,
            std::int64_t num_hidden_layers, double initializer_range, std::optional<std::int64_t> seed,
            const MaybeTensor& tied_embedding, const MaybeTensor& token_counts, const Tensors& token_bytes,
            const std::optional<std::string>& tokenizer, const MaybeTensor& trained_matrix) {
    require(hidden_size >= 1 && vocab_size >= 1, "head", "hidden_size and vocab_size must be at least 1, got ",
            hidden_size, " and ", vocab_size);
    require(initializer_range >= 0, "head", "initializer_range must be at least 0, got ", initializer_range);
    const auto specification = read_options<HeadSpecification>(Json::parse(options), "head");
    complete_ = Json(write_options(specification)).dump();
    HeadContext context{.hidden_size = hidden_size,
                        .vocab_size = vocab_size,
                        .source = seed ? fresh_parameters(std::uint64_t(*seed)) : shapes_alone(),
                        .initializer_range = initializer_range,
                        .num_hidden_layers = num_hidden_layers};
    if (tied_embedding) {
      require(tied_embedding->sizes().equals({vocab_size, hidden_size}), "head", "tied_embedding must be [", vocab_size,
              ", ", hidden_size, "], got ", tied_embedding->sizes());
      context.tied_embedding = std::make_shared<Parameter>(
          Parameter{"lm_head.weight", ParameterKind::kEmbedding, *tied_embedding, *tied_embedding, {}});
    }
    if (token_counts) {
      require(
          token_counts->dim() == 1 && token_counts->size(0) == vocab_size && token_counts->scalar_type() == at::kLong,
          "head", "token_counts must be int64 [", vocab_size, "], got ", token_counts->scalar_type(), " ",
          token_counts->sizes());
      context.token_counts = [counts = *token_counts] { return counts; };
    }
    if (!token_bytes.empty()) context.token_bytes = [bytes = texts_of(token_bytes)] { return bytes; };
    if (tokenizer) context.token_bytes = [bytes = token_bytes_of_text(*tokenizer, "the tokenizer")] { return bytes; };
    context.read_trained_matrix = [matrix = trained_matrix](const std::string& path) {
      require(path.empty(), "head", "weights must be empty here, where trained_matrix gives the matrix, got ", path);
      require(bool(matrix), "head", "trained_matrix must be given for by = kmeans, got none");
      return matrix->detach().to(at::kFloat);
    };
    head_ = specification.make(context);
    parameters_ = head_->parameters();
    if (!context.tied_embedding) return;
    for (const ParameterPtr& parameter : parameters_)  // of a head that is tied for a share of a run
      if (parameter->name == context.tied_embedding->name) context.tied_embedding->name = "lm_head.tied_weight";
    parameters_.push_back(context.tied_embedding);
  }

  std::string options() const { return complete_; }
  /// Name, kind and value of each parameter, in the order in which calls give them; values are kept no longer.
  std::vector<std::tuple<std::string, std::string, at::Tensor>> take_parameters() {
    std::vector<std::tuple<std::string, std::string, at::Tensor>> all;
    for (const ParameterPtr& parameter : parameters_) {
      all.emplace_back(parameter->name, name_of(parameter->kind), parameter->value.detach());
      parameter->value = parameter->working = parameter->value.detach().to(at::kMeta);
    }
    return all;
  }
  /// Whether tokens are needed, whether the step is, how many targets ahead.
  std::tuple<bool, bool, std::int64_t, std::vector<std::int64_t>> needs() const {
    const HeadNeeds needs = head_->needs();
    return {needs.tokens, needs.random, needs.targets_ahead, needs.layers};
  }
  double flops_per_token(std::int64_t length) const { return head_->flops_per_token(length); }
  double memory_per_token(std::int64_t length) const { return head_->memory_per_token(length); }

  std::tuple<at::Tensor, c10::Dict<std::string, double>> training_loss(const Tensors& parameters, const Pass& pass,
                                                                       const at::Tensor& targets, double z_loss,
                                                                       double label_smoothing) {
    require_ids(targets, "targets", head_->vocab_size(), head_->needs().targets_ahead > 0);
    const LossOptions options{.z_loss = z_loss, .label_smoothing = label_smoothing};
    const Held held(*this, parameters, pass.hidden.scalar_type());
    const TrainingLoss result = head_->training_loss(input(pass), targets, options);
    c10::Dict<std::string, double> figures;
    for (const auto& [name, value] : result.figures) figures.insert(name, value);
    return {result.loss, figures};
  }
  at::Tensor token_losses(const Tensors& parameters, const Pass& pass, const at::Tensor& targets) {
    require_ids(targets, "targets", head_->vocab_size(), /*may_be_ignored=*/false);
    const Held held(*this, parameters, pass.hidden.scalar_type());
    return head_->token_losses(input(pass), targets);
  }
  at::Tensor logits(const Tensors& parameters, const Pass& pass) {
    const Held held(*this, parameters, pass.hidden.scalar_type());
    return head_->logits(input(pass));
  }
  at::Tensor log_probabilities(const Tensors& parameters, const Pass& pass) {
    const Held held(*this, parameters, pass.hidden.scalar_type());
    return head_->log_probabilities(input(pass));
  }
  void after_update(const Tensors& parameters, const std::vector<std::int64_t>& step) {
    at::NoGradGuard no_grad;
    const Held held(*this, parameters, at::kFloat);
    head_->after_update(context_of(step));
  }

 private:
  /// The given tensors stand in the head's parameters as long as this lives. Products see them in the type of the
  /// features; the cast has a gradient.
  class Held {
   public:
    Held(HeadClass& head, const Tensors& given, at::ScalarType type) : head_(head), lock_(head.mutex_) {
      const ParameterList& all = head.parameters_;
      require(given.size() == all.size(), "head", "parameters must be ", all.size(), ", got ", given.size());
      for (std::size_t index = 0; index < all.size(); ++index)
        require(given[index].sizes() == all[index]->value.sizes(), "head", all[index]->name, " must be ",
                all[index]->value.sizes(), ", got ", given[index].sizes());
      for (std::size_t index = 0; index < all.size(); ++index) {
        Parameter& parameter = *all[index];
        const at::Tensor& value = given[index];
        before_.push_back(parameter.value);
        parameter.value = parameter.working = value;
        if (parameter.kind == ParameterKind::kConstant) continue;
        const bool is_wide = parameter.kind == ParameterKind::kVector && type != at::kDouble;
        parameter.working = value.to(is_wide ? at::kFloat : type);
      }
    }
    ~Held() {
      for (std::size_t index = 0; index < before_.size(); ++index)
        head_.parameters_[index]->value = head_.parameters_[index]->working = before_[index];
    }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;

   private:
    HeadClass& head_;
    std::lock_guard<std::mutex> lock_;
    Tensors before_;
  };

  static StepContext context_of(const std::vector<std::int64_t>& step) {
    require(step.size() == 4, "head", "step must be seed, step, steps and part, got ", step.size(), " numbers");
    return {.seed = std::uint64_t(step[0]), .step = step[1], .steps = step[2], .part = step[3]};
  }
  HeadInput input(const Pass& pass) const {
    if (pass.tokens) require_ids(*pass.tokens, "tokens", head_->vocab_size(), /*may_be_ignored=*/false);
    return {.hidden = pass.hidden,
            .tokens = pass.tokens.value_or(at::Tensor()),
            .layers = pass.layers,
            .documents = pass.documents.value_or(at::Tensor()),
            .rows = pass.rows.value_or(at::Tensor()),
            .step = context_of(pass.step)};
  }

  std::string complete_;
  std::unique_ptr<LmHead> head_;
  ParameterList parameters_;  // the head's own, and the embedding where it is tied
  std::mutex mutex_;          // parameters are those of one call at a time
};

using Self = c10::intrusive_ptr<HeadClass>;
using Numbers = std::vector<std::int64_t>;

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  library.def("describe_heads", [] { return describe_heads().dump(); });
  library.class_<HeadClass>("Head")
      .def(torch::init<std::string, std::int64_t, std::int64_t, std::int64_t, double, std::optional<std::int64_t>,
                       MaybeTensor, MaybeTensor, Tensors, std::optional<std::string>, MaybeTensor>())
      .def("options", [](const Self& self) { return self->options(); })
      .def("take_parameters", [](const Self& self) { return self->take_parameters(); })
      .def("needs", [](const Self& self) { return self->needs(); })
      .def("flops_per_token", [](const Self& self, std::int64_t length) { return self->flops_per_token(length); })
      .def("memory_per_token", [](const Self& self, std::int64_t length) { return self->memory_per_token(length); })
      .def("training_loss",
           [](const Self& self, const Tensors& parameters, const at::Tensor& hidden, const MaybeTensor& tokens,
              const Tensors& layers, const MaybeTensor& documents, const MaybeTensor& rows, const Numbers& step,
              const at::Tensor& targets, double z_loss, double label_smoothing) {
             return self->training_loss(parameters, {hidden, tokens, layers, documents, rows, step}, targets, z_loss,
                                        label_smoothing);
           })
      .def("token_losses",
           [](const Self& self, const Tensors& parameters, const at::Tensor& hidden, const MaybeTensor& tokens,
              const Tensors& layers, const MaybeTensor& documents, const MaybeTensor& rows, const Numbers& step,
              const at::Tensor& targets) {
             return self->token_losses(parameters, {hidden, tokens, layers, documents, rows, step}, targets);
           })
      .def("logits",
           [](const Self& self, const Tensors& parameters, const at::Tensor& hidden, const MaybeTensor& tokens,
              const Tensors& layers, const MaybeTensor& documents, const MaybeTensor& rows, const Numbers& step) {
             return self->logits(parameters, {hidden, tokens, layers, documents, rows, step});
           })
      .def("log_probabilities",
           [](const Self& self, const Tensors& parameters, const at::Tensor& hidden, const MaybeTensor& tokens,
              const Tensors& layers, const MaybeTensor& documents, const MaybeTensor& rows, const Numbers& step) {
             return self->log_probabilities(parameters, {hidden, tokens, layers, documents, rows, step});
           })
      .def("after_update", [](const Self& self, const Tensors& parameters, const Numbers& step) {
        self->after_update(parameters, step);
      });
}

}  // namespace
}  // namespace lmhead
