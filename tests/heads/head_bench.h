// Every head in the list, in every way of building it that matters, beside its formula in float64.
//
// A new head enters by one entry in `entries()`: how it may be built, and its logits from its parameters. A
// head without an entry fails the first contract test.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lmhead/base/random.h"
#include "lmhead/heads/lm_head.h"

namespace lmhead {

using Values = std::map<std::string, at::Tensor>;  // float64, by parameter name

struct Case {
  Json options;  // as in a configuration, without the type
  bool tied = false;
};

struct Entry {
  std::function<std::vector<Case>(std::int64_t hidden_size)> cases;
  std::function<at::Tensor(const Json& options, const Values&, const at::Tensor& hidden)> logits;
};

inline constexpr const char* kEmbeddingName = "model.embed_tokens.weight";

inline at::Tensor reference_linear(const Json& options, const Values& values, const at::Tensor& hidden) {
  const auto own = values.find("lm_head.weight");
  at::Tensor z = hidden.matmul((own == values.end() ? values.at(kEmbeddingName) : own->second).t());
  if (options.value("bias", false)) z = z + values.at("lm_head.bias");
  if (options.contains("mup_base_width")) z = z * (options["mup_base_width"].get<double>() / double(hidden.size(1)));
  const double cap = options.value("logit_softcap", 0.0);
  return cap > 0 ? cap * at::tanh(z / cap) : z;
}

inline const std::map<std::string, Entry>& entries() {
  static const std::map<std::string, Entry> all = {
      {"linear",
       {[](std::int64_t) {
          const Json everything = {{"bias", true}, {"logit_softcap", 3.0}, {"mup_base_width", 6}};
          return std::vector<Case>{{Json::object()},          {{{"bias", true}}}, {{{"logit_softcap", 2.5}}},
                                   {{{"mup_base_width", 6}}}, {everything},       {Json::object(), true},
                                   {everything, true}};
        },
        reference_linear}},
      {"low_rank",
       {[](std::int64_t hidden_size) {
          return std::vector<Case>{{{{"rank", 1}}}, {{{"rank", (hidden_size + 1) / 2}}}, {{{"rank", hidden_size}}}};
        },
        [](const Json&, const Values& values, const at::Tensor& hidden) {
          const at::Tensor inner = hidden.matmul(values.at("lm_head.down_proj.weight").t());
          return inner.matmul(values.at("lm_head.up_proj.weight").t());
        }}},
      {"expanded",
       {[](std::int64_t hidden_size) {
          return std::vector<Case>{{{{"width", 1}}},
                                   {{{"width", 2 * hidden_size + 1}}},
                                   {{{"width", 5}, {"activation", "gelu"}}},
                                   {{{"width", hidden_size}, {"activation", "silu"}}}};
        },
        [](const Json& options, const Values& values, const at::Tensor& hidden) {
          const at::Tensor x = hidden.matmul(values.at("lm_head.up_proj.weight").t());
          const std::string phi = options.value("activation", "none");
          const at::Tensor inner = phi == "gelu"   ? x * (1 + (x / std::sqrt(2.0)).erf()) / 2
                                   : phi == "silu" ? x / (1 + (-x).exp())
                                                   : x;
          return inner.matmul(values.at("lm_head.output_proj.weight").t());
        }}},
  };
  return all;
}

struct Shape {
  std::int64_t rows, vocab_size, hidden_size;
};
// One of everything, V below D, and both sides of the boundaries at 8, 16 and 64.
inline constexpr Shape kShapes[] = {{1, 1, 1},   {1, 2, 1},   {2, 1, 3},   {3, 2, 5},   {4, 3, 1},
                                    {5, 7, 16},  {7, 8, 8},   {8, 9, 7},   {9, 15, 17}, {16, 17, 9},
                                    {17, 63, 8}, {15, 64, 4}, {16, 65, 3}, {63, 16, 2}, {65, 31, 15}};
inline const LossOptions kLosses[] = {
    {}, {.z_loss = 0.02}, {.label_smoothing = 0.1}, {.z_loss = 0.01, .label_smoothing = 0.3}};

inline at::Tensor normal(at::IntArrayRef shape, const std::string& name, double deviation = 1) {
  at::Tensor tensor = at::zeros(shape, at::kDouble);
  RandomStream stream(11, name);
  for (std::int64_t index = 0; index < tensor.numel(); ++index)
    tensor.mutable_data_ptr<double>()[index] = deviation * stream.normal();
  return tensor;
}

inline at::Tensor draw_targets(std::int64_t rows, std::int64_t vocab_size) {
  at::Tensor targets = at::zeros({rows}, at::kLong);
  RandomStream stream(12, "targets");
  for (std::int64_t row = 0; row < rows; ++row)
    targets.mutable_data_ptr<std::int64_t>()[row] = std::int64_t(stream.below(std::uint64_t(vocab_size)));
  return targets;
}

/// A head with random parameters (biases too, which start at zero), its input, and the same in float64.
struct Bench {
  Bench(const std::string& type, const Case& one, const Shape& shape, std::uint64_t seed = 3)
      : reference([type, options = one.options](const Values& values, const at::Tensor& hidden) {
          return entries().at(type).logits(options, values, hidden);
        }) {
    Json json = one.options;
    json["type"] = type;
    const ParameterFactory factory(seed);
    if (one.tied)
      embedding = factory.make(kEmbeddingName, ParameterKind::kEmbedding, {shape.vocab_size, shape.hidden_size},
                               normal_initializer(1));
    head = read_options<HeadSpecification>(json).make(
        {shape.hidden_size, shape.vocab_size, factory, /*initializer_range=*/0.5, embedding});
    all = head->parameters();
    if (embedding) all.push_back(embedding);
    at::NoGradGuard no_grad;
    for (const ParameterPtr& parameter : all) {
      parameter->value.copy_(normal(parameter->value.sizes(), parameter->name + std::to_string(seed), 0.7));
      values[parameter->name] = parameter->value.detach().to(at::kDouble);
    }
    hidden = normal({shape.rows, shape.hidden_size}, "hidden").to(at::kFloat);
    hidden64 = hidden.to(at::kDouble);
    targets = draw_targets(shape.rows, shape.vocab_size);
  }

  std::function<at::Tensor(const Values&, const at::Tensor&)> reference;
  ParameterPtr embedding;
  std::unique_ptr<LmHead> head;
  ParameterList all;  // the head's own, and the embedding where it is tied
  Values values;
  at::Tensor hidden, hidden64, targets;
};

/// Mean loss from the definition: (1 - s) nll + s (mean nll over the classes) + z lse^2.
inline at::Tensor reference_loss(const at::Tensor& logits, const at::Tensor& targets, const LossOptions& options) {
  const at::Tensor largest = logits.amax({1}, true);
  const at::Tensor lse = (logits - largest).exp().sum({1}, true).log() + largest;
  const at::Tensor cost = lse - logits;  // [N, V]: -log p
  const at::Tensor nll = cost.gather(1, targets.unsqueeze(1));
  const double smoothing = options.label_smoothing;
  return ((1 - smoothing) * nll + smoothing * cost.mean(1, true) + options.z_loss * lse.square()).mean();
}

/// Calls `body` for every head, way of building it and shape.
inline void for_every_head(const std::function<void(Bench&, const Shape&, std::size_t)>& body) {
  at::set_num_threads(1);  // for products as small as these a second thread only waits
  for (const HeadKind& kind : head_kinds()) {
    const auto entry = entries().find(kind.type);
    if (entry == entries().end()) continue;  // reported by the first test
    std::size_t count = 0;
    for (const Shape& shape : kShapes)
      for (const Case& one : entry->second.cases(shape.hidden_size)) {
        SCOPED_TRACE(testing::Message() << kind.type << ' ' << one.options.dump() << (one.tied ? " tied" : "") << " N "
                                        << shape.rows << " V " << shape.vocab_size << " D " << shape.hidden_size);
        Bench bench(kind.type, one, shape);
        body(bench, shape, count++);
        if (testing::Test::HasFailure()) return;
      }
  }
}

/// Calls `body` for every head and way of building it, at one shape.
inline void for_every_case(const Shape& shape, const std::function<void(Bench&)>& body) {
  for (const HeadKind& kind : head_kinds())
    for (const Case& one : entries().at(kind.type).cases(shape.hidden_size)) {
      SCOPED_TRACE(testing::Message() << kind.type << ' ' << one.options.dump() << (one.tied ? " tied" : ""));
      Bench bench(kind.type, one, shape);
      body(bench);
    }
}

}  // namespace lmhead
