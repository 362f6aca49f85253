#include "lmhead/heads/shared_words.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/data/batches.h"
#include "lmhead/kernels/vocabulary_shard.h"

namespace lmhead {
namespace {

using torch::autograd::variable_list;

constexpr const char* kWho = "head";

/// The tokens of all processes, and which of them are this one's.
class AllTokens {
 public:
  AllTokens(std::int64_t own, const Processes& processes, TokensOf tokens) : processes_(processes), count_(own) {
    if (tokens == TokensOf::kAllProcesses) return;
    for (const auto& of_process : processes.gather(std::vector<double>{double(own)}))
      counts_.push_back(std::int64_t(of_process[0]));
    most_ = std::ranges::max(counts_);
    for (std::int64_t rank = 0; rank < processes.rank(); ++rank) first_ += counts_[std::size_t(rank)];
  }

  /// Rows of all, of the rows of each.
  at::Tensor gather(const at::Tensor& own) const {
    if (counts_.empty()) return own;
    const at::Tensor all = processes_.gather(padded(own));
    if (is_even()) return all.flatten(0, 1);
    std::vector<at::Tensor> parts;
    for (std::size_t rank = 0; rank < counts_.size(); ++rank)
      parts.push_back(all[std::int64_t(rank)].narrow(0, 0, counts_[rank]));
    return at::cat(parts);
  }
  /// This process's rows of the sum over processes of rows of all [M, D].
  at::Tensor scatter_sum(const at::Tensor& all) const {
    if (counts_.empty()) return processes_.sum(all);
    at::Tensor lines = all;
    if (!is_even()) {
      std::vector<at::Tensor> parts;
      std::int64_t first = 0;
      for (const std::int64_t count : counts_) {
        parts.push_back(padded(all.narrow(0, first, count)));
        first += count;
      }
      lines = at::cat(parts);
    }
    const at::Tensor own = processes_.begin_sum_of_lines(lines.contiguous().view({processes_.size(), -1}));
    processes_.wait(own);
    return own.view({most_, all.size(1)}).narrow(0, 0, count_);
  }
  at::Tensor own(const at::Tensor& all) const { return counts_.empty() ? all : all.narrow(0, first_, count_); }
  /// [M]: of each token the number of its process.
  at::Tensor spread(const std::vector<double>& of_process, const at::Tensor& like) const {
    std::vector<at::Tensor> parts;
    for (std::size_t rank = 0; rank < counts_.size(); ++rank)
      parts.push_back(at::full({counts_[rank]}, of_process[rank], like.options()));
    return at::cat(parts);
  }
  std::int64_t count() const { return count_; }

 private:
  bool is_even() const {
    return std::ranges::all_of(counts_, [this](std::int64_t count) { return count == most_; });
  }
  at::Tensor padded(const at::Tensor& rows) const {
    if (rows.size(0) == most_) return rows;
    std::vector<std::int64_t> shape = rows.sizes().vec();
    shape[0] = most_;
    const at::Tensor result = at::zeros(shape, rows.options());
    result.narrow(0, 0, rows.size(0)).copy_(rows);
    return result;
  }

  Processes processes_;
  std::vector<std::int64_t> counts_;  // of each process; none: all have the same tokens
  std::int64_t count_, most_ = 0, first_ = 0;
};

/// One process's rows, and the tokens of all.
struct Problem {
  AllTokens tokens;
  VocabularyShard shard;
};

Problem problem_of(const at::Tensor& hidden, const SharedWords& words, const at::Tensor& targets, TokensOf whose) {
  const Share share{words.processes.rank(), words.processes.size()};
  const std::int64_t first = share.begin(words.vocab_size), rows = words.map.weight.size(0);
  require(rows == share.end(words.vocab_size) - first, kWho, "a process must have the rows of its share of ",
          words.vocab_size, " words, got ", rows, " in process ", share.index, " of ", share.count);
  AllTokens tokens(hidden.size(0), words.processes, whose);
  const at::Tensor ids = tokens.gather(targets) - first;
  LinearMap map = words.map;
  map.weight = map.weight.detach();
  if (map.bias.defined()) map.bias = map.bias.detach();
  const at::Tensor here = ids.ge(0).logical_and(ids.lt(rows));
  return {tokens, {tokens.gather(hidden.detach()), map, at::where(here, ids, at::full_like(ids, -1)), {}, {}}};
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
