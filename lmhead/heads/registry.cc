// The list of heads, and the choice of one by a configuration. A head is one file, one line here and one in
// head_list.h.
#include "lmhead/base/error.h"
#include "lmhead/heads/head_list.h"

namespace lmhead {

const std::vector<HeadKind>& head_kinds() {
  // clang-format off
  static const std::vector<HeadKind> kinds = {
      linear_head(),
      low_rank_head(),
      expanded_head(),
      two_level_head(),
      adaptive_head(),
      residual_expansion_head(),
      candidate_head(),
      multi_token_head(),
      multi_exit_head(),
      multi_resolution_head(),
      depth_tapped_head(),
      mixture_of_softmaxes_head(),
      sigsoftmax_head(),
      piecewise_linear_head(),
      normalized_head(),
      token_skip_head(),
      copy_head(),
      multi_facet_head(),
  };
  // clang-format on
  return kinds;
}

const HeadKind& head_kind(const std::string& type) {
  std::vector<std::string> names;
  for (const HeadKind& kind : head_kinds()) {
    if (type == kind.type) return kind;
    names.emplace_back(kind.type);
  }
  const std::string nearest = nearest_word(type, names);
  fail("head", "head.type must be one of those that `lmhead heads` lists, got \"", type, '"',
       nearest.empty() ? "" : ", did you mean " + nearest + "?");
}

void require_no_logit_terms(const LossOptions& options, const char* name) {
  require(options.z_loss == 0, "head", "loss.z_loss must be 0 for ", name, ", which has no one normaliser, got ",
          options.z_loss);
  require(options.label_smoothing == 0, "head", "loss.label_smoothing must be 0 for ", name,
          ", whose losses are of targets alone, got ", options.label_smoothing);
}

HeadSpecification::HeadSpecification() : HeadSpecification("linear") {}

HeadSpecification::HeadSpecification(const std::string& type) : type_(type), options_(head_kind(type).make_options()) {}

void HeadSpecification::visit_fields(FieldVisitor& visitor) {
  std::string type = type_;
  visitor.field("type", type, "which head; `lmhead heads` lists them with their own keys");
  if (type != type_) {
    options_ = head_kind(type).make_options();
    type_ = type;
  }
  options_->visit_fields(visitor);
}

std::unique_ptr<LmHead> HeadSpecification::make(const HeadContext& context) const {
  return head_kind(type_).make(*options_, context);
}

}  // namespace lmhead
