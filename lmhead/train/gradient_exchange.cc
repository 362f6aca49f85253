#include "lmhead/train/gradient_exchange.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace lmhead {

GradientExchange::GradientExchange(const ParameterList& parameters, const Layout& layout,
                                   const std::vector<bool>& scattered, const Processes& processes)
    : processes_(processes), shards_(layout.shards), whole_(1), entries_(parameters.size()), shapes_(layout.shapes) {
  for (const auto& shape : shapes_) whole_[0].push_back({0, shape.empty() ? 1 : shape[0]});
  for (RowBucket& rows : gradient_buckets(parameters, layout, scattered)) {
    const at::Tensor& like = parameters[rows.members.front()]->value;
    for (std::size_t member = 0; member < rows.members.size(); ++member) {
      const std::size_t index = rows.members[member];
      entries_[index].bucket = buckets_.size();
      entries_[index].member = member;
      const auto hear = [&](const at::Tensor& leaf) {
        hooks_.emplace_back(
            leaf, leaf.register_hook([this, index](const at::Tensor& gradient) { receive(index, gradient); }));
      };
      hear(parameters[index]->value);
      if (const at::Tensor& working = parameters[index]->working; !working.is_same(parameters[index]->value))
        hear(working);
    }
    const std::int64_t lines = rows.is_scattered ? processes.size() : 1;
    const at::Tensor buffer = at::zeros({lines, rows.chunk}, like.detach().options());
    buckets_.push_back({std::move(rows), buffer, {}});
  }
}

GradientExchange::~GradientExchange() {
  for (const auto& [leaf, hook] : hooks_) leaf.remove_hook(hook);
}

template <class Use>
void GradientExchange::with_places(std::size_t index, const at::Tensor& tensor, const Use& use) {
  const Entry& entry = entries_[index];
  const Bucket& bucket = buckets_[entry.bucket];
  const RowShards& shards = shards_of(bucket);
  for (std::size_t process = 0; process < shards.size(); ++process) {
    const Rows& rows = shards[process][index];
    if (rows.count == 0) continue;
    at::Tensor place = bucket.rows.place(bucket.buffer[std::int64_t(process)], entry.member, process);
    use(place, tensor.defined() ? rows_of(tensor, rows) : tensor);
  }
}

void GradientExchange::watch(const std::vector<at::Tensor>& so_far) {
  for (std::size_t index = 0; index < entries_.size(); ++index) entries_[index].so_far = so_far[index];
  is_watching_ = true;
  send_ready();
}

void GradientExchange::receive(std::size_t index, const at::Tensor& gradient) {
  if (!is_watching_) return;
  at::NoGradGuard no_grad;
  Entry& entry = entries_[index];
  ++entry.seen;
  if (entry.bucket < sent_) {
    entry.late = entry.late.defined() ? entry.late.add_(gradient) : gradient.to(at::kFloat, false, /*copy=*/true);
    return;
  }
  with_places(index, gradient, [&](at::Tensor& place, const at::Tensor& rows) {
    if (entry.is_filled) place.add_(rows);
    else place.copy_(rows);
  });
  if (!entry.is_filled && entry.so_far.defined())
    with_places(index, entry.so_far, [](at::Tensor& place, const at::Tensor& rows) { place.add_(rows); });
  entry.is_filled = true;
  if (entry.seen == entry.expected) send_ready();
}

void GradientExchange::send_ready() {
  const auto has_all = [&](std::size_t index) { return entries_[index].seen == entries_[index].expected; };
  while (sent_ < buckets_.size() && std::ranges::all_of(buckets_[sent_].rows.members, has_all)) send(buckets_[sent_]);
}

void GradientExchange::send(Bucket& bucket) {
  at::NoGradGuard no_grad;
  for (const std::size_t index : bucket.rows.members) {
    const Entry& entry = entries_[index];
    if (entry.is_filled) continue;
    with_places(index, entry.so_far, [](at::Tensor& place, const at::Tensor& rows) {
      if (rows.defined()) place.copy_(rows);
      else place.zero_();
    });
  }
  if (bucket.rows.is_scattered) {
    bucket.received = processes_.begin_sum_of_lines(bucket.buffer);
  } else {
    processes_.begin_sum(bucket.buffer);
    bucket.received = bucket.buffer[0];
  }
  ++sent_;
}

std::vector<double> GradientExchange::own(const std::vector<at::Tensor>& gradients) {
  if (!is_watching_)
    for (std::size_t index = 0; index < entries_.size(); ++index) entries_[index].so_far = gradients[index];
  while (sent_ < buckets_.size()) send(buckets_[sent_]);  // before anything else is sent
  std::vector<double> has;
  for (Entry& entry : entries_) {
    if (is_watching_) entry.expected = entry.seen;
    has.push_back(entry.late.defined() ? 2 : entry.is_filled || entry.so_far.defined() ? 1 : 0);
  }
  is_watching_ = false;
  return has;
}

std::vector<at::Tensor> GradientExchange::finish(const std::vector<double>& largest) {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients(entries_.size());
  for (Bucket& bucket : buckets_) {
    processes_.wait(bucket.rows.is_scattered ? bucket.received : bucket.buffer);
    const std::size_t own = bucket.rows.is_scattered ? std::size_t(processes_.rank()) : 0;
    for (std::size_t member = 0; member < bucket.rows.members.size(); ++member)
      if (const std::size_t index = bucket.rows.members[member]; largest[index] > 0)
        gradients[index] = bucket.rows.is_scattered
                               ? bucket.rows.place(bucket.received, member, own)
                               : bucket.rows.place(bucket.received, member, own).view(shapes_[index]);
  }
  // What nobody expected, which costs a message of its own.
  for (std::size_t index = 0; index < entries_.size(); ++index) {
    if (largest[index] <= 1) continue;
    const Bucket& bucket = buckets_[entries_[index].bucket];
    at::Tensor& part = entries_[index].late;
    if (!part.defined()) part = at::zeros(shapes_[index], bucket.buffer.options());
    const at::Tensor all = processes_.sum(part);
    gradients[index].add_(bucket.rows.is_scattered ? rows_of(all, shards_[std::size_t(processes_.rank())][index])
                                                   : all);
  }
  for (Entry& entry : entries_) {
    entry.so_far.reset();
    entry.late.reset();
    entry.seen = 0;
    entry.is_filled = false;
  }
  sent_ = 0;
  return gradients;
}

}  // namespace lmhead
