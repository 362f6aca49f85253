#include "lmhead/kernels/linear_token_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "lmhead/base/error.h"
#include "lmhead/kernels/cross_entropy_function.h"
#include "lmhead/kernels/linear_pieces.h"
#include "lmhead/kernels/logit_pass.h"
#include "lmhead/kernels/operation_arguments.h"
#include "lmhead/kernels/plain_derivatives.h"
#include "lmhead/kernels/readable_tensor.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "linear_token_loss";
using torch::autograd::variable_list;

std::int64_t features_of(const TokenLossProblem& problem) {
  return std::max<std::int64_t>(1, std::int64_t(problem.feature_ends.size()));
}

void check(const TokenLossProblem& problem) {
  const at::Tensor &hidden = problem.hidden, &weight = problem.map.weight, &targets = problem.targets;
  require(targets.dim() == 1 && targets.scalar_type() == at::kLong, kWho, "targets must be int64 [N], got ",
          targets.scalar_type(), " ", targets.sizes());
  const std::int64_t tokens = targets.size(0);
  const std::int64_t rows = tokens * features_of(problem);
  require(hidden.defined() != bool(problem.made.make), kWho,
          "hidden must be defined where no rows are made, and only there");
  if (hidden.defined()) {
    require(hidden.dim() == 2 && (tokens == 0 ? hidden.size(0) == 0 : hidden.size(0) > 0 && hidden.size(0) % rows == 0),
            kWho, "hidden must be [N K, D] for N = ", rows, ", got ", hidden.sizes());
    require(weight.dim() == 2 && weight.size(1) == hidden.size(1) && weight.scalar_type() == hidden.scalar_type(), kWho,
            "weight must be ", hidden.scalar_type(), " [V, ", hidden.size(1), "], got ", weight.scalar_type(), " ",
            weight.sizes());
  }
  require(problem.made.make || (problem.further.dim() == 2 && problem.further.size(0) == tokens), kWho,
          "further must be [", tokens, ", S], got ",
          problem.further.defined() ? problem.further.sizes() : at::IntArrayRef());
  const at::Tensor& map_rows = problem.made.map_rows;
  require(!map_rows.defined() || (map_rows.dim() == 1 && map_rows.scalar_type() == at::kLong), kWho,
          "map_rows must be int64 [R], got ", map_rows.defined() ? map_rows.sizes() : at::IntArrayRef());
  const at::Tensor& slopes = problem.slopes;
  require(problem.absent_begin.empty() || !(bends_logits(problem.map.transform) || slopes.defined()), kWho,
          "logits must be linear where words are absent");
  require(!slopes.defined() || (slopes.dim() == 1 && slopes.size(0) % 2 == 0 && slopes.size(0) <= LinearPieces::kMost &&
                                slopes.size(0) > 0 && problem.knot_step > 0 && !changes_logits(problem.map.transform)),
          kWho, "slopes must be an even number of at most ", LinearPieces::kMost,
          ", their knots apart and the only map of logits");
  const std::vector<std::int64_t>& ends = problem.feature_ends;
  require(ends.empty() || (ends.front() >= 0 && std::ranges::is_sorted(ends) && ends.back() == weight.size(0)), kWho,
          "feature_ends must ascend to V = ", weight.size(0), ", got ", at::IntArrayRef(ends));
  require(!problem.ranges.defined() ||
              (problem.ranges.dim() == 3 && problem.ranges.size(0) == tokens && problem.ranges.size(2) == 2 &&
               problem.ranges.scalar_type() == at::kLong && !bends_logits(problem.map.transform) && !slopes.defined()),
          kWho, "ranges must be int64 [", tokens, ", R, 2] of linear logits, got ",
          problem.ranges.defined() ? problem.ranges.sizes() : at::IntArrayRef());
  require(
      !problem.unit_rows || !(problem.map.bias.defined() || bends_logits(problem.map.transform) || slopes.defined()),
      kWho, "logits must have no bias and no bend where rows count at length 1");
  check_logit_transform(problem.map.transform, kWho);
}

/// `made` with the rows of the map that it begins with.
MadeRows with_map_rows(MadeRows made, const at::Tensor& weight) {
  if (made.map_rows.defined()) made.shared.insert(made.shared.begin(), weight.detach().index_select(0, made.map_rows));
  return made;
}

struct Wanted {
  bool hidden, weight, bias, slopes;
  std::vector<bool> made;  // of what rows are made of

  bool any_made() const { return std::ranges::find(made, true) != made.end(); }
};

/// A pass over the rows, and what it reads.
struct Rows {
  explicit Rows(const TokenLossProblem& problem) : tokens(problem.targets.size(0)) {
    if (problem.hidden.defined() && tokens > 0) group = problem.hidden.size(0) / tokens / features_of(problem);
    const at::Tensor ids = problem.targets.contiguous();
    targets.reserve(tokens * group);
    for (std::int64_t token = 0; token < tokens; ++token) {
      const std::int64_t id = ids.const_data_ptr<std::int64_t>()[token];
      require(id >= 0 && id < problem.map.weight.size(0), kWho, "targets must lie in [0, ", problem.map.weight.size(0),
              "), got ", id);
      targets.insert(targets.end(), group, id);
    }
    if (problem.hidden.defined()) pass.hidden = problem.hidden.detach().contiguous();
    pass.made_rows = tokens;
    pass.map = problem.map;
    pass.map.weight = problem.map.weight.detach().contiguous();
    pass.targets = targets.data();
    pass.group = group;
    pass.absent_begin = problem.absent_begin, pass.absent = problem.absent;
    pass.feature_ends = problem.feature_ends;
    pass.unit_rows = problem.unit_rows;
    if (problem.ranges.defined()) read_ranges(problem);
    if (!problem.slopes.defined()) return;
    const at::Tensor slopes = problem.slopes.detach().to(at::kDouble).contiguous();
    pass.pieces = {.count = static_cast<int>(slopes.size(0)), .step = problem.knot_step};
    std::copy_n(slopes.const_data_ptr<double>(), slopes.size(0), pass.pieces.slopes);
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  void read_ranges(const TokenLossProblem& problem) {
    const at::Tensor given = problem.ranges.contiguous();
    const std::int64_t* words = given.const_data_ptr<std::int64_t>();
    pass.ranges_per_row = given.size(1);
    for (std::int64_t row = 0; row < tokens * group; ++row)
      for (std::int64_t range = 0; range < given.size(1); ++range) {
        const std::int64_t* at = words + 2 * (row / group * given.size(1) + range);
        pass.ranges.push_back({at[0], at[1]});
      }
  }
  void want(const Wanted& wanted) {
    pass.wants_hidden = pass.hidden.defined() ? wanted.hidden : wanted.any_made();
    pass.wants_weight = wanted.weight, pass.wants_bias = wanted.bias, pass.wants_slopes = wanted.slopes;
  }
  RowFactors factors(double max, double logsumexp, double of_logsumexp, double of_target) const {
    if (std::isinf(logsumexp) && logsumexp < 0) return {};  // no word stands there
    const double scale = pass.map.transform.scale;
    return {.max = max, .logsumexp = logsumexp, .probability = scale * of_logsumexp, .target = -scale * of_target};
  }
  void set_range_factors(std::int64_t row, const double* logsumexps, const double* slopes, double upstream) {
    for (std::int64_t range = 0; range < pass.ranges_per_row; ++range)
      pass.range_factors[row * pass.ranges_per_row + range] = {logsumexps[range],
                                                               pass.map.transform.scale * upstream * slopes[range]};
  }
  /// Those of hidden, weight, bias and slopes in the types of these.
  variable_list gradients(const TokenLossProblem& problem) const {
    variable_list found(4);
    if (pass.d_hidden.defined()) found[0] = pass.d_hidden.to(problem.hidden.scalar_type());
    if (pass.wants_weight) found[1] = pass.d_weight.to(problem.map.weight.scalar_type());
    if (pass.wants_bias) found[2] = pass.d_bias.to(problem.map.bias.scalar_type());
    if (pass.wants_slopes) {
      found[3] = at::empty({pass.pieces.count}, at::kDouble);
      std::ranges::copy(pass.d_slopes, found[3].mutable_data_ptr<double>());
      found[3] = found[3].to(problem.slopes.scalar_type());
    }
    return found;
  }

  std::int64_t tokens, group = 1;
  std::vector<std::int64_t> targets;  // of every row
  LogitPass pass;
};

/// What the forward pass leaves behind, in float64.
struct Outcome {
  at::Tensor losses;  // [N]
  at::Tensor slopes;  // [N, 2 K + K R + S]: by logsumexps, target logits, those of ranges, further numbers
  at::Tensor sums;    // [N K, 2 + R]: largest logit, logsumexp, those of ranges
};

/// Those of further numbers, the last `more`.
at::Tensor further_slopes(const at::Tensor& slopes, std::int64_t more) {
  return slopes.narrow(1, slopes.size(1) - more, more);
}

/// Runs `rows.pass`, whose gradients are those of `upstream` times the sum of losses. `further` [N, S] float64 may be
/// filled by the pass; where `made` is given, it takes its gradients back.
Outcome run_forward(const TokenLossProblem& problem, const at::Tensor& further, Rows& rows, MadeRowsPass* made,
                    double upstream) {
  const std::int64_t group = rows.group, ranges = rows.pass.ranges_per_row, more = further.size(1),
                     before = (2 + ranges) * group, width = before + more, sums_width = 2 + ranges;
  const double* given = further.const_data_ptr<double>();
  Outcome outcome{at::empty({rows.tokens}, at::kDouble), at::zeros({rows.tokens, width}, at::kDouble),
                  at::empty({rows.tokens * group, sums_width}, at::kDouble)};
  double *losses = outcome.losses.mutable_data_ptr<double>(), *slopes = outcome.slopes.mutable_data_ptr<double>(),
         *sums = outcome.sums.mutable_data_ptr<double>();
  if (made) made->take_gradients_of(rows.pass, further_slopes(outcome.slopes, more), upstream);
  rows.pass.on_group = [&](std::int64_t first, const RowOutcome* outcomes, RowFactors* factors) {
    const std::int64_t token = first / group;
    std::vector<double> terms(before);
    for (std::int64_t row = 0; row < group; ++row) {
      terms[row] = outcomes[row].logsumexp, terms[group + row] = outcomes[row].target_logit;
      double* of_row = sums + sums_width * (first + row);
      of_row[0] = outcomes[row].max, of_row[1] = outcomes[row].logsumexp;
      std::copy_n(outcomes[row].range_logsumexp, ranges, of_row + 2);
      std::copy_n(outcomes[row].range_logsumexp, ranges, terms.data() + 2 * group + row * ranges);
    }
    double* slope = slopes + token * width;
    losses[token] =
        problem.loss(token, {terms.data(), terms.data() + group, terms.data() + 2 * group, given + token * more},
                     {slope, slope + group, slope + 2 * group, slope + before});
    for (std::int64_t row = 0; row < group; ++row) {
      factors[row] = rows.factors(outcomes[row].max, outcomes[row].logsumexp, upstream * slope[row],
                                  upstream * slope[group + row]);
      rows.set_range_factors(first + row, outcomes[row].range_logsumexp, slope + 2 * group + row * ranges, upstream);
    }
  };
  rows.pass.run();
  return outcome;
}

/// Those of what rows are made of. Rows of the map have none of their own: it joins `by_weight`.
variable_list made_gradients(MadeRowsPass& pass, const MadeRows& made, const at::Tensor& by_weight) {
  variable_list found = pass.gradients();
  if (!made.map_rows.defined()) return found;
  const at::Tensor of_rows = std::exchange(found[made.by_token.size()], {});
  if (of_rows.defined()) by_weight.index_add_(0, made.map_rows, of_rows);
  return found;
}

/// Kept for the backward pass.
struct HeldMake : torch::CustomClassHolder {
  explicit HeldMake(decltype(MadeRows::make) given) : make(std::move(given)) {}
  decltype(MadeRows::make) make;
};

struct LinearTokenLossFunction : torch::autograd::Function<LinearTokenLossFunction> {
  static constexpr std::size_t kTensors = 5, kArguments = 8;  // the last before those that rows are made of

  static at::Tensor forward(torch::autograd::AutogradContext* context, const OptionalTensor& hidden,
                            const at::Tensor& weight, const OptionalTensor& bias, const OptionalTensor& slopes,
                            const OptionalTensor& given_further, const TokenLossProblem& problem, Reduction reduction,
                            const Wanted& wanted, at::TensorList made_of) {
    const bool fast = choose_linear_cross_entropy_mode(weight.size(0), weight.scalar_type(),
                                                       {.reduction = reduction}) == LinearCrossEntropyMode::kFast;
    Rows rows(problem);
    const at::Tensor further = given_further ? given_further->detach().to(at::kDouble).contiguous()
                                             : at::zeros({rows.tokens, problem.made.further_count}, at::kDouble);
    std::optional<MadeRowsPass> made;
    if (problem.made.make) made.emplace(problem.made, wanted.made, further).make_rows_of(rows.pass);
    at::AutoDispatchBelowADInplaceOrView guard;
    if (fast) rows.want(wanted);
    const bool takes_back = fast && wanted.any_made();
    const double share = reduction == Reduction::kMean ? 1 / double(rows.tokens) : 1;
    const Outcome outcome = run_forward(problem, further, rows, takes_back ? &*made : nullptr, share);
    const std::int64_t more = further.size(1);
    const at::ScalarType further_type = given_further ? given_further->scalar_type() : at::kDouble;
    variable_list saved;
    if (fast) {
      saved = rows.gradients(problem);
      saved.push_back(given_further ? (further_slopes(outcome.slopes, more) * share).to(further_type) : at::Tensor());
      const variable_list of_made =
          takes_back ? made_gradients(*made, problem.made, saved[1]) : variable_list(made_of.size());
      saved.insert(saved.end(), of_made.begin(), of_made.end());
    } else {
      saved = {problem.hidden, weight,         problem.map.bias, problem.slopes,       problem.targets,
               problem.ranges, outcome.slopes, outcome.sums,     problem.made.map_rows};
      saved.insert(saved.end(), made_of.begin(), made_of.end());
    }
    context->save_for_backward(saved);
    const TransformNumbers numbers = numbers_of(problem.map.transform);
    context->saved_data["numbers"] = std::vector<double>(numbers.begin(), numbers.end());
    context->saved_data["knot step"] = problem.knot_step;
    context->saved_data["fast"] = fast;
    context->saved_data["share"] = share;
    context->saved_data["more"] = more;
    context->saved_data["further type"] = static_cast<std::int64_t>(further_type);
    context->saved_data["wanted"] = std::vector<bool>{wanted.hidden, wanted.weight, wanted.bias, wanted.slopes};
    context->saved_data["wanted made"] = wanted.made;
    if (!fast) {
      context->saved_data["absent begin"] = problem.absent_begin;
      context->saved_data["absent"] = problem.absent;
      context->saved_data["feature ends"] = problem.feature_ends;
      context->saved_data["unit rows"] = problem.unit_rows;
      context->saved_data["by token"] = static_cast<std::int64_t>(problem.made.by_token.size());
      context->saved_data["make"] = c10::IValue::make_capsule(c10::make_intrusive<HeldMake>(problem.made.make));
    }
    const at::ScalarType type = loss_type(weight.scalar_type());
    if (reduction == Reduction::kNone) return outcome.losses.to(type);
    return (outcome.losses.sum() * share).to(type);
  }

  static variable_list backward(torch::autograd::AutogradContext* context, const variable_list& upstreams) {
    const c10::List<bool> wanted_made = context->saved_data["wanted made"].toBoolList();
    variable_list results(kArguments + wanted_made.size());
    const at::Tensor& upstream = upstreams[0];
    if (!upstream.defined()) return results;
    require(!at::GradMode::is_enabled(), kWho,
            "create_graph must be false: second derivatives are those of log_probabilities");
    const variable_list saved = context->get_saved_variables();
    if (context->saved_data["fast"].toBool()) {
      at::AutoDispatchBelowADInplaceOrView guard;
      for (std::size_t which = 0; which < saved.size(); ++which)
        if (saved[which].defined())
          results[which < kTensors ? which : which - kTensors + kArguments] = scaled_gradient(saved[which], upstream);
      return results;
    }
    constexpr std::ptrdiff_t kSaved = 9;
    const auto middle = saved.begin() + kSaved + context->saved_data["by token"].toInt();
    const auto held = context->saved_data["make"].toCapsule();
    const std::int64_t more = context->saved_data["more"].toInt();
    const TokenLossProblem problem{
        .hidden = saved[0],
        .map = {saved[1], saved[2], transform_of(context->saved_data["numbers"].toDoubleVector())},
        .targets = saved[4],
        .further = {},
        .loss = {},
        .absent_begin = context->saved_data["absent begin"].toIntVector(),
        .absent = context->saved_data["absent"].toIntVector(),
        .slopes = saved[3],
        .knot_step = context->saved_data["knot step"].toDouble(),
        .unit_rows = context->saved_data["unit rows"].toBool(),
        .feature_ends = context->saved_data["feature ends"].toIntVector(),
        .ranges = saved[5],
        .made = {.by_token = {saved.begin() + kSaved, middle},
                 .shared = {middle, saved.end()},
                 .make = static_cast<const HeldMake&>(*held).make,
                 .further_count = more,
                 .map_rows = saved[8]}};
    Rows rows(problem);
    const auto tensors = context->saved_data["wanted"].toBoolList();
    const Wanted wanted{tensors[0], tensors[1], tensors[2], tensors[3], {wanted_made.begin(), wanted_made.end()}};
    rows.want(wanted);
    std::optional<MadeRowsPass> made;
    if (problem.made.make) {
      made.emplace(problem.made, wanted.made, at::empty({rows.tokens, more}, at::kDouble));
      made->make_rows_of(rows.pass);
    }
    at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor above = (upstream.detach().to(at::kDouble) * context->saved_data["share"].toDouble())
                                 .expand({rows.tokens})
                                 .contiguous();
    const at::Tensor slopes = saved[6] * above.unsqueeze(1), &sums = saved[7];
    if (wanted.any_made()) made->take_gradients_of(rows.pass, further_slopes(slopes, more), 1);
    const double *slope = slopes.const_data_ptr<double>(), *sum = sums.const_data_ptr<double>();
    const std::int64_t group = rows.group, ranges = rows.pass.ranges_per_row;
    rows.pass.range_factors.resize(rows.tokens * group * ranges);
    for (std::int64_t row = 0; row < rows.tokens * group; ++row) {
      const double *of_row = sum + sums.size(1) * row, *of_token = slope + slopes.size(1) * (row / group);
      const std::int64_t place = row % group;
      rows.pass.factors.push_back(rows.factors(of_row[0], of_row[1], of_token[place], of_token[group + place]));
      rows.set_range_factors(row, of_row + 2, of_token + 2 * group + place * ranges, 1);
    }
    rows.pass.run();
    const variable_list found = rows.gradients(problem);
    std::copy(found.begin(), found.end(), results.begin());
    if (!made)
      results[kTensors - 1] =
          further_slopes(slopes, more).to(static_cast<at::ScalarType>(context->saved_data["further type"].toInt()));
    if (wanted.any_made())
      std::ranges::copy(made_gradients(*made, problem.made, results[1]), results.begin() + kArguments);
    return results;
  }
};

}  // namespace

bool linear_token_loss_takes(const TokenLossProblem& problem) {
  return is_readable(problem.map.weight) && has_kernel_type(problem.map.weight) &&
         !needs_plain_derivatives(
             {problem.hidden, problem.map.weight, problem.map.bias, problem.further, problem.slopes}) &&
         !needs_plain_derivatives(problem.made.inputs());
}

at::Tensor linear_token_loss(const TokenLossProblem& given, Reduction reduction) {
  check(given);
  TokenLossProblem problem = given;
  problem.made = with_map_rows(given.made, given.map.weight);
  const auto needs = [](const at::Tensor& tensor) { return needs_derivatives({tensor}); };
  Wanted wanted{needs(problem.hidden), needs(problem.map.weight), needs(problem.map.bias), needs(problem.slopes), {}};
  const std::vector<at::Tensor> made_of = problem.made.inputs();
  for (const at::Tensor& tensor : made_of) wanted.made.push_back(needs(tensor));
  if (problem.made.map_rows.defined()) wanted.made[problem.made.by_token.size()] = wanted.weight;
  return LinearTokenLossFunction::apply(optional_of(problem.hidden), problem.map.weight, optional_of(problem.map.bias),
                                        optional_of(problem.slopes), optional_of(problem.further), problem, reduction,
                                        wanted, at::TensorList(made_of));
}

}  // namespace lmhead
