// The list of heads, and the choice of one by a configuration. A head is one file, one line here and one in
// head_list.h.
#include "lmhead/base/error.h"
#include "lmhead/heads/head_list.h"

namespace lmhead {

const std::vector<HeadKind>& head_kinds() {
  static const std::vector<HeadKind> kinds = {
      linear_head(),
      low_rank_head(),
      expanded_head(),
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
