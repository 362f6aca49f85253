// Checkpoints of a run: whole folders that appear at once, the newest few and the best kept.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "lmhead/models/causal_model.h"
#include "lmhead/models/tensor_pieces.h"
#include "lmhead/train/loss_scaling.h"
#include "lmhead/train/optimizer.h"
#include "lmhead/train/trained_by.h"

namespace lmhead {

/// What a checkpoint knows beside tensors.
struct TrainingState {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  double wall_seconds = 0;
  double measure_seconds = 0;
  std::int64_t best_step = 0;  // 0: no validation yet
  double best_validation_loss = 0;
  std::vector<TrainedBy> trained_by;  // in the order of their steps
  std::string dataset_hash, tokenizer_hash, configuration_hash;
  std::string initial_weights_hash;  // of the file that the run began from; empty: drawn from its seed
  std::string head_weights_hash;     // of the file from which the head was made; empty: from none
  std::int64_t threads = 0;          // of a process
  std::int64_t processes = 1;        // that trained together
  std::int64_t log_bytes = 0;        // of the log, up to the line of `step`
  std::string log_hash;              // of these bytes; empty in checkpoints of earlier versions
  LossScale loss_scale;
  void visit_fields(FieldVisitor& visitor);
};

class CheckpointFolder {
 public:
  /// `folder` holds the checkpoints; `keep_last` of them stay, and the best.
  CheckpointFolder(std::filesystem::path folder, std::int64_t keep_last);

  /// Writes a checkpoint for `state.step`, with the hash of every file, and removes those that need not stay. On an
  /// error the earlier ones are untouched. `head_gradient`: the state of rules on the head's gradients, where there is
  /// one. `parameters` and `optimizer`: the whole of them, in pieces or `named_tensors`.
  void save(const TrainingState& state, const std::vector<TensorPieces>& parameters,
            const std::vector<TensorPieces>& optimizer, const NamedTensors& head_gradient = {}) const;
  void save(const TrainingState& state, const NamedTensors& parameters, const NamedTensors& optimizer,
            const NamedTensors& head_gradient = {}) const;
  /// The newest whole checkpoint's step.
  std::optional<std::int64_t> newest() const;
  /// Reads a checkpoint into parameters, optimiser and rules; throws where names or shapes differ, and where a file has
  /// not the hash that it was written with: the error names the file and the newest earlier checkpoint that is whole.
  TrainingState load(std::int64_t step, const std::vector<StoredRows>& parameters, Optimizer& optimizer,
                     const NamedTensors& head_gradient = {}) const;

  /// Brings everything beside the checkpoints in line with the newest, whose state this is: best.json is its best, no
  /// more are there than shall stay, and nothing that a killed process left.
  void settle(const TrainingState& state) const;

  std::filesystem::path path_of(std::int64_t step) const;

 private:
  std::filesystem::path folder_;
  std::int64_t keep_last_;
};

/// The steps of the checkpoints in a folder, ascending; what is cut short by a kill is none.
std::vector<std::int64_t> checkpoint_steps(const std::filesystem::path& folder);

/// The state of a checkpoint. Throws where its file is damaged.
TrainingState read_training_state(const std::filesystem::path& checkpoint);

/// Reads the tensors of a safetensors file into the model's parameters; throws, naming the tensor, on any that is
/// missing, misshapen or not float32, and on any that is left over, and where a checkpoint's file is damaged.
void load_parameters(const std::filesystem::path& file, const ParameterList& parameters);
void load_parameters(const std::filesystem::path& file, const std::vector<StoredRows>& parameters);

/// All rows of parameters, under the names that files know.
std::vector<StoredRows> stored_parameters(const ParameterList& parameters);

}  // namespace lmhead
