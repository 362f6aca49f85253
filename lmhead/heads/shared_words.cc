#include "lmhead/heads/shared_words.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/kernels/vocabulary_shard.h"

namespace lmhead {
namespace {

using torch::autograd::variable_list;

constexpr const char* kWho = "head";

/// One process's rows, and the tokens of all.
struct Problem {
  AllTokens tokens;
  VocabularyShard shard;
};

Problem problem_of(const at::Tensor& hidden, const SharedWords& words, const at::Tensor& targets, TokensOf whose) {
  const AllTokens tokens(hidden.size(0), words.processes, whose);
  const at::Tensor places =
      places_of_ids(tokens.gather(targets), words.vocab_size, words.map.weight.size(0), words.processes);
  LinearMap map = words.map;
  map.weight = map.weight.detach();
  if (map.bias.defined()) map.bias = map.bias.detach();
  return {tokens, {tokens.gather(hidden.detach()), map, places, {}, {}}};
}

at::Tensor column(const at::Tensor& table, std::int64_t which) { return table.select(1, which); }

/// What the backward pass goes on from, of the tokens of all processes.
struct KeptLoss : torch::CustomClassHolder {
  explicit KeptLoss(Problem given) : problem(std::move(given)) {}
  Problem problem;
  SharedWords words;
  LossOptions options;
  at::Tensor largest, logsumexp;  // [M] float64, of these rows and of all
};

struct SharedWordsFunction : torch::autograd::Function<SharedWordsFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                            const at::Tensor& weight, const std::optional<at::Tensor>& bias, const SharedWords& words,
                            const at::Tensor& targets, const LossOptions& options) {
    const double smoothing = options.label_smoothing;
    auto kept = c10::make_intrusive<KeptLoss>(problem_of(hidden, words, targets, TokensOf::kThisProcess));
    kept->words = words;
    kept->options = options;
    const Processes& processes = words.processes;
    const at::Tensor here = vocabulary_shard_sums(kept->problem.shard, smoothing > 0, /*with_scores=*/false);
    const at::Tensor largest = processes.max(column(here, 1));
    std::vector<at::Tensor> sums{(column(here, 1) - largest).exp(), column(here, 2)};
    if (smoothing > 0) sums.push_back(column(here, 3));
    const at::Tensor met = processes.sum(at::stack(sums));
    kept->largest = column(here, 0).contiguous();
    kept->logsumexp = met[0].log() + largest;
    at::Tensor losses = (1 - smoothing) * (kept->logsumexp - met[1]) + options.z_loss * kept->logsumexp.square();
    if (smoothing > 0) losses += smoothing * (kept->logsumexp - met[2] / double(words.vocab_size));
    const at::Tensor loss = kept->problem.tokens.own(losses).mean();
    context->saved_data["kept"] = c10::IValue::make_capsule(kept);
    context->saved_data["wanted"] =
        std::vector<bool>{hidden.requires_grad(), weight.requires_grad(), bias && bias->requires_grad()};
    return loss.to(hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  }

  static variable_list backward(torch::autograd::AutogradContext* context, const variable_list& upstreams) {
    require(!at::GradMode::is_enabled(), kWho, "create_graph must be false for a head whose words are shared out");
    const auto kept = c10::static_intrusive_pointer_cast<KeptLoss>(context->saved_data["kept"].toCapsule());
    const auto wanted = context->saved_data["wanted"].toBoolList();
    const auto& [tokens, shard] = kept->problem;
    const double smoothing = kept->options.label_smoothing;
    const double own = upstreams[0].item<double>() / double(std::max<std::int64_t>(tokens.count(), 1));
    std::vector<double> of_process;
    for (const auto& factor : kept->words.processes.gather(std::vector<double>{own})) of_process.push_back(factor[0]);
    const at::Tensor factor = tokens.spread(of_process, kept->logsumexp);
    const at::Tensor probability = factor * (1 + 2 * kept->options.z_loss * kept->logsumexp);
    const at::Tensor factors = at::stack({kept->largest, kept->logsumexp, probability, factor * (1 - smoothing),
                                          factor * (smoothing / double(kept->words.vocab_size))},
                                         1);
    const VocabularyShardGradients found =
        vocabulary_shard_gradients(shard, factors, {wanted[0], wanted[1], wanted[2]}, /*with_squares=*/false);
    variable_list results(6);
    if (wanted[0]) results[0] = tokens.scatter_sum(found.hidden).to(shard.hidden.scalar_type());
    if (wanted[1]) results[1] = found.weight;
    if (wanted[2]) results[2] = found.bias;
    return results;
  }
};

}  // namespace

at::Tensor shared_words_cross_entropy(const at::Tensor& hidden, const SharedWords& words, const at::Tensor& targets,
                                      const LossOptions& options) {
  const auto bias = words.map.bias.defined() ? std::optional(words.map.bias) : std::nullopt;
  return SharedWordsFunction::apply(hidden, words.map.weight, bias, words, targets, options);
}

TokenStatistics shared_words_statistics(const at::Tensor& hidden, const SharedWords& words, const at::Tensor& targets,
                                        TokensOf whose, bool with_gradient) {
  at::NoGradGuard no_grad;
  const auto& [tokens, shard] = problem_of(hidden, words, targets, whose);
  const Processes& processes = words.processes;
  const at::Tensor here = vocabulary_shard_sums(shard, /*with_weighted=*/false, /*with_scores=*/true);
  const at::Tensor most = processes.max(at::stack({column(here, 0), column(here, 1)}));
  // Of equal logits the first word's counts: the first process that has the largest.
  const at::Tensor here_first = at::full_like(most[0], -double(processes.rank()));
  const at::Tensor nowhere = at::full_like(most[0], -double(processes.size()));
  const at::Tensor first = processes.max(at::where(column(here, 0).eq(most[0]), here_first, nowhere));
  const at::Tensor share = (column(here, 1) - most[1]).exp();
  const at::Tensor met = processes.sum(at::stack({share, column(here, 2), share * (column(here, 1) - column(here, 4)),
                                                  column(here, 5) * first.eq(-double(processes.rank()))}));
  const at::Tensor logsumexp = met[0].log() + most[1];
  const at::ScalarType wide = hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto own = [&, &tokens = tokens](const at::Tensor& all) { return tokens.own(all).to(wide); };
  TokenStatistics statistics;
  statistics.log_probability = own(met[1] - logsumexp);
  statistics.logsumexp = own(logsumexp);
  statistics.entropy = own(logsumexp - met[2] / met[0]);
  statistics.correct = tokens.own(met[3]).gt(0);
  if (!with_gradient) return statistics;
  const at::Tensor ones = at::ones_like(logsumexp);
  const at::Tensor factors = at::stack({column(here, 0), logsumexp, ones, ones, at::zeros_like(ones)}, 1);
  const VocabularyShardGradients found =
      vocabulary_shard_gradients(shard, factors, {.hidden = true}, /*with_squares=*/true);
  statistics.hidden_gradient = tokens.scatter_sum(found.hidden);
  statistics.logit_gradient_square = own(processes.sum(found.squares));
  return statistics;
}

}  // namespace lmhead
