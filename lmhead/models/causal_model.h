// A decoder and a head, and their parameters together.
#pragma once

#include <memory>

#include "lmhead/heads/lm_head.h"
#include "lmhead/models/decoder.h"

namespace lmhead {

class CausalModel {
 public:
  /// `seed` decides every initial value; the same seed gives bodies that are equal under any head.
  CausalModel(const DecoderOptions& options, const HeadSpecification& head, std::int64_t vocab_size,
              std::uint64_t seed);

  Decoder decoder;
  std::unique_ptr<LmHead> head;

  /// Body first, then what the head owns.
  ParameterList parameters() const;
};

/// Every parameter as outsiders know it: one tensor a name, fused projections cut apart (as views of the master).
std::vector<std::pair<std::string, at::Tensor>> named_tensors(const ParameterList& parameters);

}  // namespace lmhead
