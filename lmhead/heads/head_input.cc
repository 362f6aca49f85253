#include "lmhead/heads/head_input.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full_like.h>

#include <string>

namespace lmhead {

RandomStream StepContext::stream(std::string_view name) const {
  return {seed, std::string(name) + "." + std::to_string(part), std::uint64_t(step)};
}

at::Tensor HeadInput::select(const at::Tensor& all) const { return rows.defined() ? all.index_select(0, rows) : all; }

HeadInput HeadInput::narrow(std::int64_t first, std::int64_t count) const {
  HeadInput part = *this;
  part.rows = rows.defined() ? rows.narrow(0, first, count)
                             : at::arange(first, first + count, hidden.options().dtype(at::kLong));
  return part;
}

at::Tensor documents_of(const at::Tensor& tokens, std::optional<std::int64_t> end_of_document) {
  if (!end_of_document) return {};
  return tokens.eq(*end_of_document).cumsum(1);
}

at::Tensor targets_ahead(const at::Tensor& targets, const at::Tensor& tokens, std::int64_t ahead) {
  const std::int64_t length = tokens.size(1);
  at::Tensor shifted = at::full_like(targets, -100);
  if (ahead < length)
    shifted.view(tokens.sizes())
        .narrow(1, 0, length - ahead)
        .copy_(targets.view(tokens.sizes()).narrow(1, ahead, length - ahead));
  return shifted;
}

}  // namespace lmhead
