// GradientRetention as a class of torch, torch.classes.lmhead.GradientRetention, so that Python runs the same code.
#include <torch/custom_class.h>

#include <optional>
#include <string>

#include "lmhead/diagnose/gradient_retention.h"
#include "lmhead/kernels/linear_cross_entropy.h"

namespace lmhead {
namespace {

class RetentionClass : public torch::CustomClassHolder {
 public:
  RetentionClass(const at::Tensor& weight, const std::optional<at::Tensor>& bias, double logit_scale,
                 double logit_softcap, bool center_weight, const std::string& group, std::int64_t rank,
                 std::int64_t size)
      : processes_(size > 1 ? Processes(group, rank, size) : Processes()),
        retention_({weight, bias.value_or(at::Tensor()), logit_scale, logit_softcap}, {.center_weight = center_weight},
                   processes_) {}

  /// The share of each token's energy that is retained, [n] float64, of the rows that are not ignored.
  at::Tensor update(const at::Tensor& hidden, const at::Tensor& targets) {
    const TokenEnergies energies = retention_.update(hidden, targets);
    return energies.retained.div(energies.total);
  }
  // Where several processes have the rows of the weight, they compute the statistics themselves, of these features by
  // this weight and bias.
  at::Tensor features(const at::Tensor& hidden) const { return retention_.head_space().features(hidden); }
  at::Tensor weight() const { return retention_.head_space().differentiated_map().weight; }
  std::optional<at::Tensor> bias() const {
    const at::Tensor& bias = retention_.head_space().differentiated_map().bias;
    return bias.defined() ? std::optional(bias) : std::nullopt;
  }
  at::Tensor add(const at::Tensor& logit_gradient_square, const at::Tensor& hidden_gradient,
                 const at::Tensor& log_probability, const at::Tensor& correct) {
    const TokenEnergies energies =
        retention_.head_space().energies_of_features({.log_probability = log_probability,
                                                      .correct = correct,
                                                      .logit_gradient_square = logit_gradient_square,
                                                      .hidden_gradient = hidden_gradient});
    retention_.add(energies);
    return energies.retained.div(energies.total);
  }
  /// With `has_own_tokens` over the tokens of all processes, and not of this one.
  c10::Dict<std::string, double> compute(bool has_own_tokens) const {
    GradientRetention all = retention_;
    if (has_own_tokens) {
      all.reset();
      all.add_sums(processes_.sum(retention_.sums()));
    }
    const GradientRetentionResult result = all.compute();
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
  Processes processes_;
  GradientRetention retention_;
};

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  library.class_<RetentionClass>("GradientRetention")
      .def(torch::init<at::Tensor, std::optional<at::Tensor>, double, double, bool, std::string, std::int64_t,
                       std::int64_t>())
      .def("update", [](const c10::intrusive_ptr<RetentionClass>& self, const at::Tensor& hidden,
                        const at::Tensor& targets) { return self->update(hidden, targets); })
      .def("features", [](const c10::intrusive_ptr<RetentionClass>& self,
                          const at::Tensor& hidden) { return self->features(hidden); })
      .def("weight", [](const c10::intrusive_ptr<RetentionClass>& self) { return self->weight(); })
      .def("bias", [](const c10::intrusive_ptr<RetentionClass>& self) { return self->bias(); })
      .def("add",
           [](const c10::intrusive_ptr<RetentionClass>& self, const at::Tensor& logit_gradient_square,
              const at::Tensor& hidden_gradient, const at::Tensor& log_probability, const at::Tensor& correct) {
             return self->add(logit_gradient_square, hidden_gradient, log_probability, correct);
           })
      .def("compute", [](const c10::intrusive_ptr<RetentionClass>& self,
                         bool has_own_tokens) { return self->compute(has_own_tokens); })
      .def("reset", [](const c10::intrusive_ptr<RetentionClass>& self) { self->reset(); })
      .def("sums", [](const c10::intrusive_ptr<RetentionClass>& self) { return self->sums(); })
      .def("add_sums",
           [](const c10::intrusive_ptr<RetentionClass>& self, const at::Tensor& sums) { self->add_sums(sums); });
}

}  // namespace
}  // namespace lmhead
