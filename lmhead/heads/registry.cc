// The list of heads, and the choice of one by a configuration. A head is one file and one line here.
#include "lmhead/base/error.h"
#include "lmhead/heads/expanded.h"
#include "lmhead/heads/linear.h"
#include "lmhead/heads/lm_head.h"
#include "lmhead/heads/low_rank.h"

namespace lmhead {
namespace {

template <class Options>
std::unique_ptr<HeadOptions> make_options() {
  return std::make_unique<Options>();
}

}  // namespace

const std::vector<HeadKind>& head_kinds() {
  static const std::vector<HeadKind> kinds = {
      {"linear", "z = softcap(s (W h + b))", make_options<LinearHeadOptions>, make_linear_head},
      {"low_rank", "z = A (B h), A: V x k, B: k x D", make_options<LowRankHeadOptions>, make_low_rank_head},
      {"expanded", "z = W phi(E h), E: width x D, W: V x width", make_options<ExpandedHeadOptions>, make_expanded_head},
  };
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
