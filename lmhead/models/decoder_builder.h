// Asks a source for the parameters of a decoder; private to the decoder.
#pragma once

#include "lmhead/models/decoder.h"

namespace lmhead {

class Decoder::Builder {
 public:
  Builder(Decoder& decoder, const ParameterSource& source)
      : decoder_(decoder), specification_(decoder.specification_), source_(source) {}

  ParameterPtr matrix(const std::string& name, ParameterKind kind, std::int64_t rows, std::int64_t columns);
  Norm norm(const std::string& name, std::int64_t width);
  Block block(std::size_t layer);

 private:
  ParameterPtr add(const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape,
                   const Initializer& initializer, const std::vector<RowPart>& parts = {});
  Projection projection(const std::string& prefix, const std::string& name, std::int64_t inputs,
                        const std::vector<RowPart>& parts, bool bias, double deviation);
  void add_attention(Block& block, const std::string& prefix);
  void add_mlp(Block& block, const std::string& prefix);
  void add_experts(Block& block, const std::string& prefix);

  Decoder& decoder_;
  const DecoderSpecification& specification_;
  const ParameterSource& source_;
};

}  // namespace lmhead
