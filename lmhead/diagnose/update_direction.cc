// The loss after logit steps of equal length along -G, along the step that backpropagation takes, and along
// the part of -G that the head can express.
//
// A step adds -a sqrt(N) S / ||S||_F to the products H W^T, so that `a` is the root mean square over tokens
// of the length of a token's logit change. S is G; G W W^T (what a small step on the features along -dL/dH
// does to the logits); or G P_W. Rows come in blocks; the three norms are known beforehand from the tokens'
// energies.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/diagnose/kinds.h"
#include "lmhead/diagnose/logit_gradient.h"
#include "lmhead/diagnose/token_rows.h"
#include "lmhead/diagnose/token_sample.h"
#include "lmhead/kernels/stepped_losses.h"

namespace lmhead {

void UpdateDirectionOptions::visit_fields(FieldVisitor& visitor) {
  visitor.field("tokens", tokens, "the first so many tokens are taken", at_least(1));
  visitor.field("step_sizes", step_sizes, "root mean square over tokens of the length of a token's logit change",
                at_least(0));
}

namespace {

constexpr std::array<const char*, 3> kDirections = {"gradient", "backpropagation", "projection"};

class UpdateDirection : public Diagnostic {
 public:
  explicit UpdateDirection(const DiagnosticContext& context)
      : map_(context.map),
        head_space_(context.head_space),
        step_sizes_(context.options.update_direction.step_sizes),
        sample_(context.options.update_direction.tokens) {}

  void update(const TokenBatch& batch, const TokenEnergies& energies) override { sample_.add(batch, energies); }
  Json result() const override;
  void reset() override { sample_.reset(); }

 private:
  LinearMap map_;
  std::shared_ptr<const HeadSpace> head_space_;
  std::vector<double> step_sizes_;
  TokenSample sample_;
};

Json UpdateDirection::result() const {
  at::NoGradGuard no_grad;
  const std::int64_t tokens = sample_.size(), vocab_size = map_.weight.size(0);
  require(tokens > 0, "update_direction", "at least one token with a target must have been seen, got none");
  const std::array<double, 3> squares = {sample_.total(), sample_.step_square(), sample_.retained()};
  std::array<double, 3> factors;  // of a step of size 1; a direction that is zero moves nothing
  for (std::size_t index = 0; index < 3; ++index)
    factors[index] = squares[index] > 0 ? std::sqrt(double(tokens) / squares[index]) : 0;

  double loss = 0;
  std::vector<std::array<double, 3>> after(step_sizes_.size(), std::array<double, 3>{});
  const at::Tensor hidden = sample_.hidden(), all_targets = sample_.targets();
  const std::int64_t step = std::max<std::int64_t>(rows_per_block(vocab_size) / 4, 1);  // about six float64 blocks live
  for (std::int64_t row = 0; row < tokens; row += step) {
    const std::int64_t rows = std::min(step, tokens - row);
    const at::Tensor targets = all_targets.narrow(0, row, rows);
    const LogitGradient block(map_, hidden.narrow(0, row, rows), targets);
    // Float64 from here on: a small step changes the loss by less than the rounding of float32.
    const at::Tensor logits = block.product(0, vocab_size), product = logits.to(at::kDouble);
    const at::Tensor gradient = block.of_product(logits, 0).to(at::kDouble);
    const at::Tensor coordinates = head_space_->coordinates(gradient);
    const std::array<at::Tensor, 3> directions = {
        gradient, head_space_->expand(head_space_->backpropagated(coordinates)), head_space_->expand(coordinates)};
    const auto loss_after = [&](const at::Tensor& direction, double size) {
      return stepped_losses(product, direction, size, targets, map_.transform).sum().item<double>();
    };
    loss += loss_after(directions[0], 0);
    for (std::size_t size = 0; size < step_sizes_.size(); ++size)
      for (std::size_t index = 0; index < 3; ++index)
        after[size][index] += loss_after(directions[index], step_sizes_[size] * factors[index]);
  }

  const auto cosine = [](double product, double square) { return square > 0 ? product / std::sqrt(square) : 0.0; };
  Json result = {{"tokens", tokens},
                 {"loss", number_or_null(loss / double(tokens))},
                 {"step_cosine", cosine(sample_.gradient_square(), sample_.step_square() * sample_.total())},
                 {"visible_cosine", std::min(cosine(sample_.retained(), sample_.retained() * sample_.total()), 1.0)},
                 {"step_sizes", step_sizes_}};
  for (std::size_t index = 0; index < 3; ++index) {
    Json values = Json::array();
    for (const auto& sums : after) values.push_back(number_or_null(sums[index] / double(tokens)));
    result["loss_after"][kDirections[index]] = values;
  }
  return result;
}

}  // namespace

std::unique_ptr<Diagnostic> make_update_direction(const DiagnosticContext& context) {
  return std::make_unique<UpdateDirection>(context);
}

}  // namespace lmhead
