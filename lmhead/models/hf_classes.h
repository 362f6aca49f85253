// The classes of Hugging Face transformers that models of ours can be written as, and what each can express.
#pragma once

#include <string>
#include <vector>

#include "lmhead/base/options.h"
#include "lmhead/models/decoder_specification.h"

namespace lmhead {

/// Something that a class takes for granted, in the words of a run's configuration.
struct HfDemand {
  const char* option;  // model.qk_norm
  const char* must;    // false
  bool holds;
};

/// One line of the list of classes. Biases that a class has and a model has not are written as zeros.
struct HfClass {
  const char* architecture;
  std::vector<HfDemand> (*demands)(const DecoderSpecification& specification);
  /// The keys of config.json that describe the decoder, `model_type` among them.
  Json (*configuration)(const DecoderSpecification& specification);
};

/// Every class there is, the more usual first.
const std::vector<HfClass>& hf_classes();

/// The first class all of whose demands hold. Throws, naming the options that keep the model from the nearest one.
const HfClass& hf_class_of(const DecoderSpecification& specification);

}  // namespace lmhead
