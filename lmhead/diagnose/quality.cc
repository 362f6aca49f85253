// Loss, perplexity, bits per byte and top-1 accuracy.
#include <ATen/core/Tensor.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/diagnose/kinds.h"

namespace lmhead {
namespace {

class Quality : public Diagnostic {
 public:
  void update(const TokenBatch& batch, const TokenEnergies& energies) override {
    tokens_ += energies.total.size(0);
    loss_sum_ -= energies.log_probability.sum().item<double>();
    correct_ += energies.correct.sum().item<std::int64_t>();
    bytes_known_ = bytes_known_ && batch.bytes.has_value();
    bytes_ += batch.bytes.value_or(0);
  }

  Json result() const override {
    require(tokens_ > 0, "quality", "at least one token with a target must have been seen, got none");
    const double loss = loss_sum_ / double(tokens_);
    return {{"loss", number_or_null(loss)},
            {"perplexity", number_or_null(std::exp(loss))},
            {"bits_per_byte", bytes_known_ ? number_or_null(loss_sum_ / std::log(2.0) / bytes_) : Json(nullptr)},
            {"top1_accuracy", double(correct_) / double(tokens_)},
            {"tokens", tokens_}};
  }

  void reset() override { *this = {}; }

 private:
  std::int64_t tokens_ = 0, correct_ = 0;
  double loss_sum_ = 0, bytes_ = 0;
  bool bytes_known_ = true;
};

}  // namespace

std::unique_ptr<Diagnostic> make_quality(const DiagnosticContext&) { return std::make_unique<Quality>(); }

}  // namespace lmhead
