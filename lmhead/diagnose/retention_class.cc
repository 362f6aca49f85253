// GradientRetention as a class of torch, torch.classes.lmhead.GradientRetention, so that Python runs the same code.
#include <torch/custom_class.h>

#include <optional>
#include <string>

#include "lmhead/diagnose/gradient_retention.h"

namespace lmhead {
namespace {

class RetentionClass : public torch::CustomClassHolder {
 public:
  RetentionClass(const at::Tensor& weight, const std::optional<at::Tensor>& bias, double logit_scale,
                 double logit_softcap, bool center_weight)
      : retention_({weight, bias.value_or(at::Tensor()), logit_scale, logit_softcap},
                   {.center_weight = center_weight}) {}

  /// The share of each token's energy that is retained, [n] float64, of the rows that are not ignored.
  at::Tensor update(const at::Tensor& hidden, const at::Tensor& targets) {
    const TokenEnergies energies = retention_.update(hidden, targets);
    return energies.retained.div(energies.total);
  }
  c10::Dict<std::string, double> compute() const {
    const GradientRetentionResult result = retention_.compute();
    c10::Dict<std::string, double> figures;
    figures.insert("destroyed_ratio", result.destroyed_ratio);
    figures.insert("null_destroyed_ratio", result.null_destroyed_ratio);
    figures.insert("destroyed_excess", result.destroyed_excess);
    figures.insert("retained_energy", result.retained_energy);
    figures.insert("visible_cosine", result.visible_cosine);
    figures.insert("step_cosine", result.step_cosine);
    figures.insert("head_rank", double(result.head_rank));
    figures.insert("head_condition", result.head_condition);
    figures.insert("tokens", double(result.tokens));
    return figures;
  }
  void reset() { retention_.reset(); }
  at::Tensor sums() const { return retention_.sums(); }
  void add_sums(const at::Tensor& sums) { retention_.add_sums(sums); }

 private:
  GradientRetention retention_;
};

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  library.class_<RetentionClass>("GradientRetention")
      .def(torch::init<at::Tensor, std::optional<at::Tensor>, double, double, bool>())
      .def("update", [](const c10::intrusive_ptr<RetentionClass>& self, const at::Tensor& hidden,
                        const at::Tensor& targets) { return self->update(hidden, targets); })
      .def("compute", [](const c10::intrusive_ptr<RetentionClass>& self) { return self->compute(); })
      .def("reset", [](const c10::intrusive_ptr<RetentionClass>& self) { self->reset(); })
      .def("sums", [](const c10::intrusive_ptr<RetentionClass>& self) { return self->sums(); })
      .def("add_sums",
           [](const c10::intrusive_ptr<RetentionClass>& self, const at::Tensor& sums) { self->add_sums(sums); });
}

}  // namespace
}  // namespace lmhead
