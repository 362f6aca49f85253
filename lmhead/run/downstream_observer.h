// Tasks that a run is asked while it trains.
#pragma once

#include <memory>
#include <string>

#include "lmhead/base/options.h"
#include "lmhead/train/trainer.h"

namespace lmhead {

struct DownstreamOptions {
  std::int64_t every = 0;
  std::string requests;
  std::string truncation = "request";
  std::int64_t max_length = 0;
  void visit_fields(FieldVisitor& visitor);
};

/// Scores the tasks of `options.requests` every so many steps and at the last, with the weights that the step computes
/// with; inputs have at most the tokens of a training sequence, or fewer. Throws where the file's tokenizer is not the
/// data's, and where a document does not fit.
std::unique_ptr<Observer> make_downstream_observer(const DownstreamOptions& options, const TrainConfiguration& train,
                                                   const Trainer& trainer);

}  // namespace lmhead
