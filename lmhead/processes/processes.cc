#include "lmhead/processes/processes.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "lmhead/processes/collectives.h"
#include "lmhead/processes/ring.h"

namespace lmhead {
namespace {

constexpr const char* kWho = "processes";
constexpr std::int64_t kBucketBytes = std::int64_t(32) << 20;  // sent at once; copies of the next go on meanwhile

/// Calls what sends or waits, adds its time to `seconds` and translates the backend's words.
template <class Work>
auto timed(double& seconds, const Work& work) {
  struct Timer {
    double& seconds;
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    ~Timer() { seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }
  } timer{seconds};
  try {
    return work();
  } catch (const std::exception& error) {
    const std::string text = error.what();
    throw ProcessLost("[" + std::string(kWho) + "] every process must answer, got: " + text.substr(0, text.find('\n')));
  }
}

at::Tensor tensor_of(const std::vector<double>& numbers) {
  at::Tensor tensor = at::empty({std::int64_t(numbers.size())}, at::kDouble);
  std::copy(numbers.begin(), numbers.end(), tensor.mutable_data_ptr<double>());
  return tensor;
}

/// Tensors in order, cut where the type or the device changes or a bucket is full.
std::vector<std::vector<at::Tensor>> buckets_of(const std::vector<at::Tensor>& tensors) {
  std::vector<std::vector<at::Tensor>> buckets;
  std::int64_t bytes = 0;
  for (const at::Tensor& tensor : tensors) {
    const bool fits = !buckets.empty() && buckets.back().back().scalar_type() == tensor.scalar_type() &&
                      buckets.back().back().device() == tensor.device() &&
                      bytes + std::int64_t(tensor.nbytes()) <= kBucketBytes;
    if (!fits) {
      buckets.emplace_back();
      bytes = 0;
    }
    buckets.back().push_back(tensor);
    bytes += std::int64_t(tensor.nbytes());
  }
  return buckets;
}

/// Every process's rows, of which each may have another number.
std::vector<at::Tensor> rows_of_all(const Processes& processes, const at::Tensor& own) {
  std::vector<std::int64_t> counts;
  for (const auto& list : processes.gather(std::vector<double>{double(own.size(0))}))
    counts.push_back(std::int64_t(list[0]));
  std::vector<std::int64_t> shape = own.sizes().vec();
  shape[0] = std::ranges::max(counts);
  if (shape[0] == 0) return std::vector<at::Tensor>(counts.size(), own);  // nothing that could be sent
  at::Tensor padded = at::zeros(shape, own.options());
  padded.narrow(0, 0, own.size(0)).copy_(own.detach());
  const at::Tensor all = processes.gather(padded);
  std::vector<at::Tensor> parts;
  for (std::size_t rank = 0; rank < counts.size(); ++rank)
    parts.push_back(all[std::int64_t(rank)].narrow(0, 0, counts[rank]));
  return parts;
}

}  // namespace

Processes::Processes(std::string group, std::int64_t rank, std::int64_t size)
    : group_(std::move(group)), rank_(rank), size_(size), spent_(std::make_shared<Spent>()) {
  require(size >= 1 && rank >= 0 && rank < size, kWho, "a rank must be from 0 to ", size - 1, ", got ", rank);
}

void Processes::send_sum(const at::Tensor& tensor, const char* what) const {
  spent_->bytes += ring_bytes(RingRounds::kSum, double(tensor.nbytes()), size_);
  timed(spent_->seconds, [&] { collectives::begin_reduction(tensor, what, group_); });
}

at::Tensor Processes::send_lines(const at::Tensor& lines) const {
  spent_->bytes += ring_bytes(RingRounds::kScatteredSum, double(lines.nbytes()), size_);
  return timed(spent_->seconds, [&] { return collectives::begin_scattered_sum(lines, size_, group_); });
}

at::Tensor Processes::send_own(const at::Tensor& own) const {
  spent_->bytes += ring_bytes(RingRounds::kGather, double(own.nbytes()) * double(size_), size_);
  return timed(spent_->seconds, [&] { return collectives::begin_gather(own, size_, group_); });
}

void Processes::sum(const std::vector<at::Tensor>& tensors) const {
  if (alone() || tensors.empty()) return;
  at::NoGradGuard no_grad;
  std::vector<std::pair<std::vector<at::Tensor>, at::Tensor>> sent;
  for (std::vector<at::Tensor>& bucket : buckets_of(tensors)) {
    std::vector<at::Tensor> flat;
    for (const at::Tensor& tensor : bucket) flat.push_back(tensor.reshape({-1}));
    const at::Tensor buffer = at::cat(flat);
    send_sum(buffer, "sum");
    sent.emplace_back(std::move(bucket), buffer);
  }
  for (const auto& [bucket, buffer] : sent) {
    wait(buffer);
    std::int64_t first = 0;
    for (const at::Tensor& tensor : bucket) {
      at::Tensor into = tensor;
      into.copy_(buffer.narrow(0, first, tensor.numel()).view(tensor.sizes()));
      first += tensor.numel();
    }
  }
}

at::Tensor Processes::sum(const at::Tensor& tensor) const {
  if (alone()) return tensor;
  at::NoGradGuard no_grad;
  const at::Tensor result = tensor.detach().clone(at::MemoryFormat::Contiguous);
  send_sum(result, "sum");
  wait(result);
  return result;
}

at::Tensor Processes::max(const at::Tensor& tensor) const {
  if (alone()) return tensor;
  at::NoGradGuard no_grad;
  const at::Tensor result = tensor.detach().clone(at::MemoryFormat::Contiguous);
  send_sum(result, "max");
  wait(result);
  return result;
}

at::Tensor Processes::from(std::int64_t rank, const at::Tensor& tensor) const {
  if (alone()) return tensor;
  at::NoGradGuard no_grad;
  spent_->bytes += ring_bytes(RingRounds::kBroadcast, double(tensor.nbytes()), size_);
  const at::Tensor all =
      timed(spent_->seconds, [&] { return collectives::begin_broadcast(tensor.detach().contiguous(), rank, group_); });
  wait(all);
  return all;
}

double Processes::sum(double value) const { return alone() ? value : sum(tensor_of({value})).item<double>(); }

bool Processes::any(bool value) const { return alone() ? value : sum(value ? 1.0 : 0.0) > 0; }

at::Tensor Processes::gather(const at::Tensor& own) const {
  if (alone()) return own.unsqueeze(0);
  at::NoGradGuard no_grad;
  const at::Tensor sent = own.detach().contiguous().unsqueeze(0);
  const at::Tensor all = send_own(sent);
  wait(all);
  return all;
}

std::vector<std::vector<double>> Processes::gather(const std::vector<double>& own) const {
  if (alone()) return {own};
  const at::Tensor all = gather(tensor_of(own));
  std::vector<std::vector<double>> lists;
  const auto* value = all.const_data_ptr<double>();
  for (std::int64_t rank = 0; rank < size_; ++rank) {
    lists.emplace_back(value, value + own.size());
    value += own.size();
  }
  return lists;
}

at::Tensor Processes::gather_rows(const at::Tensor& own) const {
  if (alone() || !own.defined()) return own;
  const bool is_bool = own.scalar_type() == at::kBool;  // which backends do not send
  return at::cat(rows_of_all(*this, is_bool ? own.to(at::kByte) : own)).to(own.scalar_type());
}

void Processes::begin_sum(const at::Tensor& tensor) const {
  if (!alone()) send_sum(tensor, "sum");
}

at::Tensor Processes::begin_sum_of_lines(const at::Tensor& lines) const {
  if (alone()) return lines[0];
  return send_lines(lines).squeeze(0);
}

at::Tensor Processes::begin_gather(const at::Tensor& own) const {
  if (alone()) return own.unsqueeze(0);
  return send_own(own.unsqueeze(0));
}

void Processes::wait(const at::Tensor& sent) const {
  if (!alone()) timed(spent_->seconds, [&] { collectives::wait(sent); });
}

std::vector<std::string> Processes::gather_texts(const std::string& own) const {
  if (alone()) return {own};
  at::Tensor bytes = at::empty({std::int64_t(own.size())}, at::kByte);
  std::copy(own.begin(), own.end(), bytes.mutable_data_ptr<std::uint8_t>());
  std::vector<std::string> texts;
  for (const at::Tensor& text : rows_of_all(*this, bytes)) {
    const auto* begin = text.const_data_ptr<std::uint8_t>();
    texts.emplace_back(begin, begin + text.numel());
  }
  return texts;
}

std::string Processes::from_first(const std::string& text) const {
  return gather_texts(is_first() ? text : "").front();
}

void Processes::together(const std::function<void()>& work) const {
  if (alone()) return work();
  std::exception_ptr error;
  std::string text;
  try {
    work();
  } catch (const std::exception& caught) {
    error = std::current_exception();
    text = *caught.what() ? caught.what() : "an operation failed";
  }
  const std::vector<std::string> texts = gather_texts(text);
  const auto failed = std::ranges::find_if(texts, [](const std::string& one) { return !one.empty(); });
  if (failed == texts.end()) return;
  if (failed - texts.begin() == rank_) std::rethrow_exception(error);
  throw Error(*failed);
}

void Processes::require_same(std::string_view who, std::string_view what, const std::string& own) const {
  const std::vector<std::string> all = gather_texts(own);
  const auto other = std::ranges::find_if(all, [&](const std::string& one) { return one != all.front(); });
  if (other == all.end()) return;
  fail(who, "all processes must have the same ", what, ", got ", all.front(), " in process 0 and ", *other,
       " in process ", other - all.begin());
}

}  // namespace lmhead
