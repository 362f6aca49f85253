#include "lmhead/models/generation.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"

namespace lmhead {
namespace {

struct Candidate {
  double logit;
  std::int64_t id;
  bool operator<(const Candidate& other) const {  // likelier first, of equals the lower id
    return logit != other.logit ? logit > other.logit : id < other.id;
  }
};

std::vector<Candidate> candidates_of(const at::Tensor& logits) {
  require(logits.dim() == 1 && logits.size(0) > 0, "sample", "logits must be [V], got ", logits.sizes());
  const at::Tensor values = logits.detach().cpu().to(at::kDouble).contiguous();
  std::vector<Candidate> all;
  all.reserve(std::size_t(values.size(0)));
  for (std::int64_t id = 0; id < values.size(0); ++id) {
    all.push_back({values.const_data_ptr<double>()[id], id});
    require(std::isfinite(all.back().logit), "sample", "logits must be finite, got ", all.back().logit, " for token ",
            id);
  }
  return all;
}

/// Probabilities of the candidates, in their order; their sum is 1.
std::vector<double> probabilities(const std::vector<Candidate>& candidates, double temperature) {
  double largest = candidates.front().logit, sum = 0;
  for (const Candidate& candidate : candidates) largest = std::max(largest, candidate.logit);
  std::vector<double> all;
  all.reserve(candidates.size());
  for (const Candidate& candidate : candidates) {
    all.push_back(std::exp((candidate.logit - largest) / temperature));
    sum += all.back();
  }
  for (double& probability : all) probability /= sum;
  return all;
}

/// What a head is given to say what comes next: the last token's features, or all of the context where it looks at it.
class SampledContext {
 public:
  SampledContext(HeadNeeds needs, std::optional<std::int64_t> end_of_document)
      : needs_(std::move(needs)), end_of_document_(end_of_document) {
    parts_.resize(1 + needs_.layers.size());
  }

  void add(const at::Tensor& tokens, const at::Tensor& hidden, const std::vector<at::Tensor>& layers) {
    add(parts_[0], hidden);
    for (std::size_t index = 0; index < needs_.layers.size(); ++index)
      add(parts_[1 + index], layers.at(std::size_t(needs_.layers[index])));
    if (needs_.tokens) tokens_ = tokens_.defined() ? at::cat({tokens_, tokens}, 1) : tokens;
  }
  HeadInput input() const {
    HeadInput input{.hidden = parts_[0], .tokens = tokens_, .layers = {parts_.begin() + 1, parts_.end()}};
    if (needs_.tokens) input.documents = documents_of(tokens_, end_of_document_);
    input.rows = at::full({1}, input.hidden.size(0) - 1, input.hidden.options().dtype(at::kLong));
    return input;
  }

 private:
  void add(at::Tensor& part, const at::Tensor& rows) const {
    if (!needs_.tokens) part = rows.narrow(0, rows.size(0) - 1, 1);
    else part = part.defined() ? at::cat({part, rows}) : rows;
  }
  HeadNeeds needs_;
  std::optional<std::int64_t> end_of_document_;
  at::Tensor tokens_;              // [1, S]
  std::vector<at::Tensor> parts_;  // [S, D], or [1, D]: hidden, and the layers asked for
};

}  // namespace

void SamplingOptions::check() const {
  require(temperature >= 0 && std::isfinite(temperature), "sample", "temperature must be at least 0, got ",
          temperature);
  require(top_k >= 0, "sample", "top_k must be at least 0, got ", top_k);
  require(top_p > 0 && top_p <= 1, "sample", "top_p must be above 0 and at most 1, got ", top_p);
}

std::int64_t choose_token(const at::Tensor& logits, const SamplingOptions& options, RandomStream& stream) {
  options.check();
  std::vector<Candidate> candidates = candidates_of(logits);
  if (options.temperature == 0) return std::min_element(candidates.begin(), candidates.end())->id;
  if (options.top_k > 0 && std::size_t(options.top_k) < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + (options.top_k - 1), candidates.end());
    candidates.resize(std::size_t(options.top_k));
  }
  // nth_element leaves an order open, on which the draw must not depend.
  if (options.top_k > 0 || options.top_p < 1) std::sort(candidates.begin(), candidates.end());
  std::vector<double> chances = probabilities(candidates, options.temperature);
  double kept = 1;
  if (options.top_p < 1) {
    kept = 0;
    std::size_t count = 0;
    while (count < chances.size() && kept < options.top_p) kept += chances[count++];
    chances.resize(count);
  }
  double left = stream.uniform() * kept;
  for (std::size_t index = 0; index < chances.size(); ++index) {
    left -= chances[index];
    if (left < 0) return candidates[index].id;
  }
  return candidates[chances.size() - 1].id;  // rounding left a little over
}

std::vector<std::int64_t> generate(const Decoder& decoder, const LmHead& head, const std::vector<std::int64_t>& prompt,
                                   const GenerationOptions& options,
                                   const std::function<bool(std::int64_t)>& on_token) {
  const DecoderSpecification& specification = decoder.specification();
  options.sampling.check();
  require(options.max_new_tokens >= 0, "sample", "max_new_tokens must be at least 0, got ", options.max_new_tokens);
  require(!prompt.empty(), "sample", "the prompt must hold at least one token, got none");
  for (const std::int64_t id : prompt)
    require(id >= 0 && id < specification.vocab_size, "sample", "ids of the prompt must be at least 0 and below ",
            specification.vocab_size, ", got ", id);
  at::NoGradGuard no_grad;
  RandomStream stream(options.seed, "sample");
  KeyValueCache cache;
  const HeadNeeds needs = head.needs();
  SampledContext context(needs, options.end_of_document);
  std::vector<std::int64_t> generated;
  const c10::Device device = decoder.embedding()->value.device();
  at::Tensor next = on_device(at::tensor(prompt, at::kLong).unsqueeze(0), device);
  const auto has_room = [&] {
    const std::int64_t positions = specification.position_embeddings;
    return positions == 0 || generated.empty() || cache.length() + 1 <= positions;
  };
  while (std::int64_t(generated.size()) < options.max_new_tokens && has_room()) {
    if (!decoder.keeps_keys(cache.length(), cache.length() + next.size(1))) {  // all of it once more
      std::vector<std::int64_t> all = prompt;
      all.insert(all.end(), generated.begin(), generated.end());
      next = on_device(at::tensor(all, at::kLong).unsqueeze(0), device);
      cache = {};
      context = SampledContext(needs, options.end_of_document);
    }
    std::vector<at::Tensor> layers;
    context.add(next, decoder.extend(next, cache, needs.layers.empty() ? nullptr : &layers), layers);
    const at::Tensor last = head.logits(context.input()).squeeze(0);
    generated.push_back(choose_token(last, options.sampling, stream));
    next = on_device(at::tensor({generated.back()}, at::kLong).unsqueeze(0), device);
    const bool goes_on = !on_token || on_token(generated.back());
    const auto& ends = options.end_tokens;
    if (!goes_on || std::find(ends.begin(), ends.end(), generated.back()) != ends.end()) break;
  }
  return generated;
}

}  // namespace lmhead
