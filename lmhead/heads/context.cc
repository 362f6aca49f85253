#include "lmhead/heads/context.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "lmhead/base/device.h"

namespace lmhead {
namespace {

at::Tensor asked_rows(const HeadInput& input) {
  return input.rows.defined() ? input.rows : at::arange(input.hidden.size(0), input.tokens.options());
}
at::Tensor sequence_of(const HeadInput& input) { return asked_rows(input).floor_divide(input.tokens.size(1)); }

}  // namespace

at::Tensor unseen_positions(const HeadInput& input, std::optional<std::int64_t> band) {
  const std::int64_t length = input.tokens.size(1);
  const at::Tensor positions = at::arange(length, input.tokens.options()).unsqueeze(0);
  const at::Tensor own = asked_rows(input).remainder(length).unsqueeze(1);
  at::Tensor unseen = positions.gt(own);
  if (band) unseen = unseen.logical_or(positions.le(own - *band));
  if (input.documents.defined()) {
    const at::Tensor documents = input.documents.index_select(0, sequence_of(input));
    unseen = unseen.logical_or(documents.ne(documents.gather(1, own)));
  }
  return unseen;
}

at::Tensor tokens_of_rows(const HeadInput& input) { return input.tokens.index_select(0, sequence_of(input)); }

at::Tensor context_products(const HeadInput& input, const at::Tensor& queries, const at::Tensor& keys) {
  const std::int64_t sequences = input.tokens.size(0), length = input.tokens.size(1), width = keys.size(1);
  if (sequences == 1) return at::mm(queries, keys.t());
  const at::Tensor of_sequence = keys.view({sequences, length, width});
  if (!input.rows.defined())
    return at::bmm(queries.view({sequences, length, width}), of_sequence.transpose(1, 2)).view({-1, length});
  const at::Tensor sequence = sequence_of(input), counts = sequence.bincount({}, sequences).cpu();
  for (std::int64_t index = 0; index < sequences; ++index)
    if (counts.const_data_ptr<std::int64_t>()[index] == queries.size(0)) return at::mm(queries, of_sequence[index].t());
  const at::Tensor order = sequence.argsort(/*stable=*/true), sorted = queries.index_select(0, order);
  std::vector<at::Tensor> products;
  std::int64_t first = 0;
  for (std::int64_t index = 0; index < sequences; ++index) {
    const std::int64_t count = counts.const_data_ptr<std::int64_t>()[index];
    if (count > 0) products.push_back(at::mm(sorted.narrow(0, first, count), of_sequence[index].t()));
    first += count;
  }
  return at::cat(products).index_select(0, order.argsort());
}

ContextWords context_words(const HeadInput& input) {
  const std::int64_t sequences = input.tokens.size(0), length = input.tokens.size(1);
  const at::Tensor tokens = input.tokens.cpu().contiguous(), rows = asked_rows(input).cpu().contiguous();
  const at::Tensor documents = input.documents.defined() ? input.documents.cpu().contiguous() : at::zeros_like(tokens);
  const auto *ids = tokens.const_data_ptr<std::int64_t>(), *of_document = documents.const_data_ptr<std::int64_t>();
  ContextWords context{.repeats = at::zeros({sequences, length}, at::kBool)};
  bool* repeats = context.repeats.mutable_data_ptr<bool>();
  // The words of every row in turn: as they come where all are asked for, else set aside until the rows are known.
  const bool all = !input.rows.defined();
  std::vector<std::vector<std::int64_t>> of_row(all ? 0 : std::size_t(sequences * length));
  std::vector<bool> is_asked(of_row.size());
  for (std::int64_t index = 0; !all && index < rows.numel(); ++index)
    is_asked[rows.const_data_ptr<std::int64_t>()[index]] = true;
  const auto add = [&context](const std::vector<std::int64_t>& words) {
    context.words.insert(context.words.end(), words.begin(), words.end());
    context.begin.push_back(std::int64_t(context.words.size()));
  };
  std::vector<std::int64_t> seen;
  for (std::int64_t row = 0; row < sequences * length; ++row) {
    if (row % length == 0 || of_document[row] != of_document[row - 1]) seen.clear();
    const auto place = std::ranges::lower_bound(seen, ids[row]);
    repeats[row] = place != seen.end() && *place == ids[row];
    if (!repeats[row]) seen.insert(place, ids[row]);
    if (all) add(seen);
    else if (is_asked[row]) of_row[row] = seen;
  }
  for (std::int64_t index = 0; !all && index < rows.numel(); ++index)
    add(of_row[rows.const_data_ptr<std::int64_t>()[index]]);
  context.repeats = on_device(context.repeats, input.tokens.device());
  return context;
}

}  // namespace lmhead
