// Every head in the list, in every way of building it that matters, with random parameters and inputs, beside its
// formula in float64.
//
// A new head enters by a file in references/ and a line in `entries()`. A head without an entry fails the first
// contract test.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "lmhead/base/device.h"
#include "lmhead/base/random.h"
#include "tests/heads/head_reference.h"
#include "tests/heads/references/adaptive.h"
#include "tests/heads/references/candidate.h"
#include "tests/heads/references/copy.h"
#include "tests/heads/references/depth_tapped.h"
#include "tests/heads/references/expanded.h"
#include "tests/heads/references/linear.h"
#include "tests/heads/references/low_rank.h"
#include "tests/heads/references/mixture_of_softmaxes.h"
#include "tests/heads/references/multi_exit.h"
#include "tests/heads/references/multi_facet.h"
#include "tests/heads/references/multi_resolution.h"
#include "tests/heads/references/multi_token.h"
#include "tests/heads/references/normalized.h"
#include "tests/heads/references/piecewise_linear.h"
#include "tests/heads/references/residual_expansion.h"
#include "tests/heads/references/sigsoftmax.h"
#include "tests/heads/references/token_skip.h"
#include "tests/heads/references/two_level.h"
#include "tests/support/devices.h"

namespace lmhead {

inline const std::map<std::string, Entry>& entries() {
  // clang-format off
  static const std::map<std::string, Entry> all = {
      {"linear", linear_entry()},
      {"low_rank", low_rank_entry()},
      {"expanded", expanded_entry()},
      {"two_level", two_level_entry()},
      {"adaptive", adaptive_entry()},
      {"residual_expansion", residual_expansion_entry()},
      {"candidate", candidate_entry()},
      {"multi_token", multi_token_entry()},
      {"multi_exit", multi_exit_entry()},
      {"multi_resolution", multi_resolution_entry()},
      {"depth_tapped", depth_tapped_entry()},
      {"mixture_of_softmaxes", mixture_of_softmaxes_entry()},
      {"sigsoftmax", sigsoftmax_entry()},
      {"piecewise_linear", piecewise_linear_entry()},
      {"normalized", normalized_entry()},
      {"token_skip", token_skip_entry()},
      {"copy", copy_entry()},
      {"multi_facet", multi_facet_entry()},
  };
  // clang-format on
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

inline at::Tensor draw_targets(std::int64_t rows, std::int64_t vocab_size, const char* name = "targets") {
  at::Tensor targets = at::zeros({rows}, at::kLong);
  RandomStream stream(12, name);
  for (std::int64_t row = 0; row < rows; ++row)
    targets.mutable_data_ptr<std::int64_t>()[row] = std::int64_t(stream.below(std::uint64_t(vocab_size)));
  return targets;
}

inline constexpr std::int64_t kBenchLayers = 4;

/// Every text of the letters a, b and c, shorter ones first.
inline std::vector<std::string> bench_bytes(std::int64_t vocab_size) {
  std::vector<std::string> bytes;
  for (std::int64_t id = 0; id < vocab_size; ++id)
    bytes.push_back(id < 3 ? std::string(1, char('a' + id)) : bytes[std::size_t(id / 3 - 1)] + char('a' + id % 3));
  return bytes;
}

inline HeadSpecification specification_of(const std::string& type, const Case& one) {
  Json json = one.options;
  json["type"] = type;
  return read_options<HeadSpecification>(json);
}

/// A head with random parameters (biases too, which start at zero), a pass over random tokens of several documents, and
/// the same in float64.
struct Bench {
  Bench(const std::string& type, const Case& one, const Shape& shape, std::uint64_t seed = 3)
      : entry(entries().at(type)), options(one.options) {
    HeadContext context{.hidden_size = shape.hidden_size,
                        .vocab_size = shape.vocab_size,
                        .source = fresh_parameters(seed),
                        .initializer_range = 0.5,
                        .num_hidden_layers = kBenchLayers,
                        .token_counts = [size = shape.vocab_size] { return at::arange(size, 0, -1, at::kLong); },
                        .token_bytes = [size = shape.vocab_size] { return bench_bytes(size); }};
    if (one.tied)
      embedding = context.tied_embedding = context.parameter(kEmbeddingName, {shape.vocab_size, shape.hidden_size},
                                                             normal_initializer(1), ParameterKind::kEmbedding);
    head = specification_of(type, one).make(context);
    all = head->parameters();
    if (embedding) all.push_back(embedding);
    at::NoGradGuard no_grad;
    for (const ParameterPtr& parameter : all) {
      if (parameter->kind != ParameterKind::kConstant)
        parameter->value.copy_(normal(parameter->value.sizes(), parameter->name + std::to_string(seed), 0.7));
      values[parameter->name] = parameter->value.detach().to(at::kDouble);
    }
    hidden = normal({shape.rows, shape.hidden_size}, "hidden").to(at::kFloat);
    reference_input.hidden = hidden.to(at::kDouble);
    const std::int64_t sequences = shape.rows % 2 == 0 ? 2 : shape.rows % 3 == 0 ? 3 : 1;
    const std::vector<std::int64_t> grid = {sequences, shape.rows / sequences};
    tokens = draw_targets(shape.rows, shape.vocab_size, "tokens").view(grid);
    documents = draw_targets(shape.rows, 5, "documents").view(grid).eq(0).cumsum(1);
    reference_input.tokens = tokens;
    reference_input.documents = documents;
    for (const std::int64_t layer : head->needs().layers) {
      layers.push_back(normal({shape.rows, shape.hidden_size}, "layer" + std::to_string(layer)).to(at::kFloat));
      reference_input.layers.push_back(layers.back().to(at::kDouble));
    }
    targets = given_targets = draw_targets(shape.rows, shape.vocab_size);
  }

  /// Everything that the head is given, its parameters too, goes to `device`; `targets` and what references are made of
  /// stay on the CPU.
  void move_to(c10::Device device) {
    move_parameters(all, device);
    for (at::Tensor* tensor : {&hidden, &tokens, &documents, &given_targets}) *tensor = on_device(*tensor, device);
    for (at::Tensor& layer : layers) layer = on_device(layer, device);
  }
  HeadInput input() const {
    return {.hidden = hidden, .tokens = tokens, .layers = layers, .documents = documents, .step = step};
  }
  at::Tensor reference(const Values& at_values, const ReferenceInput& at_input) const {
    return entry.logits(options, at_values, at_input);
  }
  at::Tensor reference() const { return reference(values, reference_input); }
  /// The objective of training, 0-dim.
  at::Tensor reference_training(const Values& at_values, const ReferenceInput& at_input,
                                const LossOptions& loss) const {
    return entry.training_loss ? entry.training_loss(options, at_values, at_input, targets, loss, step)
                               : reference_loss(reference(at_values, at_input), targets, loss);
  }
  /// Whether sequences are long enough for every target that training looks at.
  bool has_every_target() const { return tokens.size(1) > head->needs().targets_ahead; }
  /// What the head's training loss may be asked for.
  std::vector<LossOptions> losses() const {
    if (!entry.takes_logit_terms) return {{}};
    return {std::begin(kLosses), std::end(kLosses)};
  }
  void require_gradients() {
    hidden.requires_grad_(true);
    for (at::Tensor& layer : layers) layer.requires_grad_(true);
  }

  const Entry& entry;
  Json options;
  ParameterPtr embedding;
  std::unique_ptr<LmHead> head;
  ParameterList all;  // the head's own, and the embedding where it is tied
  Values values;
  at::Tensor hidden, tokens, documents, targets, given_targets;
  std::vector<at::Tensor> layers;
  ReferenceInput reference_input;
  StepContext step = {.seed = 5, .step = 3, .steps = 10, .part = 0};
};

/// Calls `body` for every head, way of building it and shape.
inline void for_every_head(const std::function<void(Bench&, const Shape&, std::size_t)>& body) {
  at::set_num_threads(1);  // for products as small as these a second thread only waits
  for (const HeadKind& kind : head_kinds()) {
    const auto entry = entries().find(kind.type);
    if (entry == entries().end()) continue;  // reported by the first test
    std::size_t count = 0;
    for (const Shape& shape : kShapes)
      for (const Case& one : entry->second.cases(shape.hidden_size)) {
        if (shape.vocab_size < one.least_vocab_size) continue;
        SCOPED_TRACE(testing::Message() << kind.type << ' ' << one.options.dump() << (one.tied ? " tied" : "") << " N "
                                        << shape.rows << " V " << shape.vocab_size << " D " << shape.hidden_size);
        Bench bench(kind.type, one, shape);
        body(bench, shape, count++);
        if (testing::Test::HasFailure()) return;
      }
  }
}

/// The same on the CPU and, for some of the shapes, on every other device that is there.
inline void for_every_head_and_device(const std::function<void(Bench&, const Shape&, std::size_t)>& body) {
  std::vector<c10::Device> devices{c10::Device(c10::DeviceType::CPU)};
  for (const c10::Device device : test::other_devices()) devices.push_back(device);
  // Not V = 1 or D = 1, where gradients that plain operations are composed of cancel to their last digits.
  constexpr Shape kElsewhere[] = {{5, 7, 16}, {16, 17, 9}};
  for (const c10::Device device : devices) {
    const auto there = [&](Bench& bench, const Shape& shape, std::size_t count) {
      const bool is_among = std::ranges::any_of(kElsewhere, [&](const Shape& one) {
        return one.rows == shape.rows && one.vocab_size == shape.vocab_size && one.hidden_size == shape.hidden_size;
      });
      if (!device.is_cpu() && !is_among) return;
      SCOPED_TRACE(device.str());
      if (!device.is_cpu()) bench.move_to(device);
      body(bench, shape, count);
    };
    for_every_head(there);
    if (testing::Test::HasFailure()) return;
  }
}

/// Calls `body` for every head and way of building it, at one shape.
inline void for_every_case(const Shape& shape, const std::function<void(Bench&)>& body) {
  for (const HeadKind& kind : head_kinds())
    for (const Case& one : entries().at(kind.type).cases(shape.hidden_size)) {
      if (shape.vocab_size < one.least_vocab_size) continue;
      SCOPED_TRACE(testing::Message() << kind.type << ' ' << one.options.dump() << (one.tied ? " tied" : ""));
      Bench bench(kind.type, one, shape);
      body(bench);
    }
}

}  // namespace lmhead
