// The decoder of decoder.h once more, in float64 and one sequence at a time, from the tensors as outsiders
// know them.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "lmhead/models/decoder_options.h"

namespace lmhead {

class ReferenceDecoder {
 public:
  using Values = std::map<std::string, at::Tensor>;  // float64

  ReferenceDecoder(const DecoderOptions& options, Values values) : o_(options), values_(std::move(values)) {}

  /// Features [B T, D] of `tokens` [B, T], and those after every block where `layers` is given.
  at::Tensor features(const at::Tensor& tokens, std::vector<at::Tensor>* layers = nullptr) const {
    std::vector<at::Tensor> sequences;
    std::vector<std::vector<at::Tensor>> by_layer(std::size_t(o_.num_hidden_layers));
    for (std::int64_t row = 0; row < tokens.size(0); ++row) sequences.push_back(sequence(tokens[row], by_layer));
    if (layers)
      for (const auto& parts : by_layer) layers->push_back(at::cat(parts));
    return at::cat(sequences);
  }

 private:
  at::Tensor sequence(const at::Tensor& ids, std::vector<std::vector<at::Tensor>>& by_layer) const {
    at::Tensor x = values_.at("model.embed_tokens.weight").index_select(0, ids);
    if (o_.position == "learned") x = x + values_.at("model.embed_positions.weight").narrow(0, 0, ids.size(0));
    for (std::int64_t layer = 0; layer < o_.num_hidden_layers; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      // OLMo 2, whose norms follow both sublayers, names them by where they stand.
      const bool output = o_.norm_position == "output";
      x = sublayer(prefix + (output ? "post_attention_layernorm" : "input_layernorm"), x,
                   [&](const at::Tensor& in) { return attend(prefix + "self_attn.", in); });
      x = sublayer(prefix + (output ? "post_feedforward_layernorm" : "post_attention_layernorm"), x,
                   [&](const at::Tensor& in) { return transform(prefix + "mlp.", in); });
      by_layer[std::size_t(layer)].push_back(x);
    }
    return o_.norm_position == "post" ? x : norm("model.norm", x);
  }

  template <class Sublayer>
  at::Tensor sublayer(const std::string& name, const at::Tensor& x, const Sublayer& f) const {
    if (o_.norm_position == "pre") return x + f(norm(name, x));
    if (o_.norm_position == "post") return norm(name, x + f(x));
    return x + norm(name, f(x));
  }

  at::Tensor norm(const std::string& name, const at::Tensor& x) const {
    if (o_.norm == "rmsnorm") return rms(x) * values_.at(name + ".weight");
    const at::Tensor centred = x - x.mean(-1, true);
    return rms(centred) * values_.at(name + ".weight") + values_.at(name + ".bias");
  }
  at::Tensor rms(const at::Tensor& x) const { return x * at::rsqrt(x.square().mean(-1, true) + o_.norm_eps); }

  at::Tensor project(const std::string& name, const at::Tensor& x) const {
    const at::Tensor y = x.matmul(values_.at(name + ".weight").t());
    const auto bias = values_.find(name + ".bias");
    return bias == values_.end() ? y : y + bias->second;
  }

  at::Tensor attend(const std::string& prefix, const at::Tensor& x) const {
    const std::int64_t width = o_.resolved_head_dim(), heads = o_.num_attention_heads;
    const std::int64_t sharing = heads / o_.resolved_num_key_value_heads();
    const at::Tensor q = project(prefix + "q_proj", x), k = project(prefix + "k_proj", x),
                     v = project(prefix + "v_proj", x);
    std::vector<at::Tensor> mixed;
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::int64_t shared = head / sharing;
      const at::Tensor query = positioned(prefix + "q_norm", q.narrow(1, head * width, width));
      const at::Tensor key = positioned(prefix + "k_norm", k.narrow(1, shared * width, width));
      const at::Tensor future = at::ones({x.size(0), x.size(0)}, at::kBool).triu(1);
      const at::Tensor scores = (query.matmul(key.t()) / std::sqrt(double(width)))
                                    .masked_fill(future, -std::numeric_limits<double>::infinity());
      mixed.push_back(at::softmax(scores, 1).matmul(v.narrow(1, shared * width, width)));
    }
    return project(prefix + "o_proj", at::cat(mixed, 1));
  }

  /// Optional norm, then optional rotation, of one head's queries or keys [T, width].
  at::Tensor positioned(const std::string& norm_name, at::Tensor x) const {
    if (o_.qk_norm) x = rms(x) * values_.at(norm_name + ".weight");
    if (o_.position != "rotary") return x;
    const std::int64_t half = x.size(1) / 2;
    at::Tensor cosine = at::zeros({x.size(0), half}, at::kDouble), sine = at::zeros({x.size(0), half}, at::kDouble);
    for (std::int64_t t = 0; t < x.size(0); ++t)
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle = double(t) * std::pow(o_.rope_theta, -double(i) / double(half));
        cosine.mutable_data_ptr<double>()[t * half + i] = std::cos(angle);
        sine.mutable_data_ptr<double>()[t * half + i] = std::sin(angle);
      }
    const at::Tensor a = x.narrow(1, 0, half), b = x.narrow(1, half, half);
    return at::cat(std::vector<at::Tensor>{a * cosine - b * sine, a * sine + b * cosine}, 1);
  }

  at::Tensor transform(const std::string& prefix, const at::Tensor& x) const {
    const at::Tensor up = project(prefix + "up_proj", x);
    if (o_.activation == "gelu") return project(prefix + "down_proj", at::gelu(up, "tanh"));
    const at::Tensor gate = project(prefix + "gate_proj", x);
    return project(prefix + "down_proj", gate / (1 + (-gate).exp()) * up);
  }

  DecoderOptions o_;
  Values values_;
};

}  // namespace lmhead
