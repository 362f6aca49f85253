#include "lmhead/heads/word_partition.h"

#include <ATen/ops/ones.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "lmhead/base/error.h"
#include "lmhead/heads/cluster_rows.h"

namespace lmhead {
namespace {

constexpr std::int64_t kMostWords = std::int64_t(1) << 24;  // float32 holds whole numbers up to here

/// The bytes of every id, empty for those that are not known to stand for any.
std::vector<std::string> bytes_of(const HeadContext& context, const char* key) {
  std::vector<std::string> bytes = context.token_bytes ? context.token_bytes() : std::vector<std::string>();
  require(!bytes.empty(), "head", "head.", key, " asks for the bytes of tokens, which the training data must tell (a ",
          "tokenizer.json, or plain bytes) or token_bytes give, got none");
  require(std::int64_t(bytes.size()) <= context.vocab_size, "head", "tokens with bytes must be at most ",
          context.vocab_size, ", got ", bytes.size());
  bytes.resize(std::size_t(context.vocab_size));
  return bytes;
}

}  // namespace

std::vector<std::int64_t> cut_by_mass(const std::vector<double>& masses, std::int64_t classes) {
  const auto words = std::int64_t(masses.size());
  require(classes >= 1 && classes <= words, "head", "classes must be 1 to ", words, ", got ", classes);
  double left = std::accumulate(masses.begin(), masses.end(), 0.0);
  std::vector<std::int64_t> sizes;
  std::int64_t word = 0;
  for (std::int64_t index = 0; index < classes; ++index) {
    const std::int64_t others = classes - index - 1, most = words - word - others;
    const double share = left / double(others + 1);
    double mass = 0;
    std::int64_t size = 0;
    // The word that crosses the share is taken where that leaves the sum nearer to it.
    while (size < most && (size == 0 || others == 0 || mass + masses[std::size_t(word)] / 2 <= share)) {
      mass += masses[std::size_t(word++)];
      ++size;
    }
    left -= mass;
    sizes.push_back(size);
  }
  return sizes;
}

std::vector<double> counts_of(const HeadContext& context) {
  at::Tensor counts = context.token_counts ? context.token_counts() : at::Tensor();
  if (!counts.defined()) counts = at::ones({context.vocab_size}, at::kLong);
  require(counts.dim() == 1 && counts.size(0) == context.vocab_size, "head", "counts of tokens must be [",
          context.vocab_size, "], got ", counts.sizes());
  const at::Tensor wide = counts.to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

std::vector<std::int64_t> order_by_count(const std::vector<double>& counts) {
  std::vector<std::int64_t> order(counts.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t left, std::int64_t right) {
    return counts[std::size_t(left)] > counts[std::size_t(right)];
  });
  return order;
}

std::vector<std::string> ways_to_partition() { return {"mass", "sqrt", "bytes"}; }

const char* ways_to_partition_doc() {
  return "what puts words into classes: mass cuts them by falling count into runs of equal count in the training data, "
         "sqrt into runs of equal sums of square roots of counts, bytes cuts them in the order of their bytes into "
         "runs "
         "of equal count";
}

WordPartition partition_words(const std::string& by, std::int64_t classes, const HeadContext& context) {
  const std::vector<double> counts = counts_of(context);
  WordPartition partition{.order = order_by_count(counts)};
  if (by == "bytes") {
    const std::vector<std::string> bytes = bytes_of(context, "by = bytes");
    std::stable_sort(partition.order.begin(), partition.order.end(), [&](std::int64_t left, std::int64_t right) {
      return bytes[std::size_t(left)] < bytes[std::size_t(right)];
    });
  }
  std::vector<double> masses;
  for (const std::int64_t id : partition.order)
    masses.push_back(by == "sqrt" ? std::sqrt(counts[std::size_t(id)]) : counts[std::size_t(id)]);
  partition.sizes = cut_by_mass(masses, classes);
  return partition;
}

WordPartition cluster_words(const at::Tensor& matrix, std::int64_t classes, const HeadContext& context) {
  require(matrix.defined() && matrix.dim() == 2 && matrix.size(0) == context.vocab_size, "head",
          "a matrix to cluster must be [", context.vocab_size, ", D], got ",
          matrix.defined() ? matrix.sizes() : at::IntArrayRef{});
  RandomStream stream(0, "clusters of words");
  const std::vector<std::int64_t> clusters = cluster_rows(matrix, classes, stream);
  const std::vector<double> counts = counts_of(context);
  std::vector<double> masses(static_cast<std::size_t>(classes));
  std::vector<std::int64_t> sizes(masses.size()), ranks(masses.size()), by_mass(masses.size());
  for (std::size_t id = 0; id < clusters.size(); ++id) {
    masses[std::size_t(clusters[id])] += counts[id];
    ++sizes[std::size_t(clusters[id])];
  }
  std::iota(by_mass.begin(), by_mass.end(), 0);
  std::stable_sort(by_mass.begin(), by_mass.end(), [&](std::int64_t left, std::int64_t right) {
    return masses[std::size_t(left)] > masses[std::size_t(right)];
  });
  WordPartition partition{.order = order_by_count(counts)};
  for (std::size_t rank = 0; rank < by_mass.size(); ++rank) {
    ranks[std::size_t(by_mass[rank])] = std::int64_t(rank);
    partition.sizes.push_back(sizes[std::size_t(by_mass[rank])]);
  }
  const auto rank_of = [&](std::int64_t id) { return ranks[std::size_t(clusters[std::size_t(id)])]; };
  std::stable_sort(partition.order.begin(), partition.order.end(),
                   [&](std::int64_t left, std::int64_t right) { return rank_of(left) < rank_of(right); });
  return partition;
}

std::vector<std::int64_t> prefixes_of_words(const HeadContext& context) {
  const std::vector<std::string> bytes = bytes_of(context, "prefix");
  std::unordered_map<std::string_view, std::int64_t> ids;
  for (std::size_t id = 0; id < bytes.size(); ++id) ids.emplace(bytes[id], std::int64_t(id));  // of equals the first
  std::vector<std::int64_t> prefixes;
  for (std::size_t id = 0; id < bytes.size(); ++id) {
    std::int64_t longest = std::int64_t(id);
    for (std::size_t length = bytes[id].size(); length-- > 1;)
      if (const auto found = ids.find(std::string_view(bytes[id]).substr(0, length)); found != ids.end()) {
        longest = found->second;
        break;
      }
    prefixes.push_back(longest);
  }
  return prefixes;
}

Initializer whole_numbers(const std::function<std::vector<std::int64_t>()>& numbers) {
  return [numbers](at::Tensor& tensor, RandomStream&) {
    const std::vector<std::int64_t> from = numbers();
    require(std::int64_t(from.size()) == tensor.numel() && tensor.numel() <= kMostWords, "head",
            "whole numbers of a constant must be ", tensor.numel(), ", got ", from.size());
    std::copy(from.begin(), from.end(), tensor.mutable_data_ptr<float>());
  };
}

PartitionConstants partition_constants(const HeadContext& context, std::int64_t classes,
                                       const std::function<WordPartition()>& make) {
  require(context.vocab_size <= kMostWords, "head", "words in classes must be at most ", kMostWords, ", got ",
          context.vocab_size);
  const auto made = std::make_shared<std::optional<WordPartition>>();
  const auto once = [made, make]() -> const WordPartition& {
    if (!*made) *made = make();
    return **made;
  };
  return {context.parameter("lm_head.word_order", {context.vocab_size}, whole_numbers([once] { return once().order; }),
                            ParameterKind::kConstant),
          context.parameter("lm_head.class_sizes", {classes}, whole_numbers([once] { return once().sizes; }),
                            ParameterKind::kConstant)};
}

}  // namespace lmhead
