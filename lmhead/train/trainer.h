// The training loop: batches in, a run folder out; exact to resume.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/data/batches.h"
#include "lmhead/data/frequency_bands.h"
#include "lmhead/heads/head_gradient.h"
#include "lmhead/models/causal_model.h"
#include "lmhead/processes/processes.h"
#include "lmhead/train/batch_feed.h"
#include "lmhead/train/checkpoint.h"
#include "lmhead/train/configuration.h"
#include "lmhead/train/gradient_exchange.h"
#include "lmhead/train/observer.h"
#include "lmhead/train/parallel_layout.h"
#include "lmhead/train/run_folder.h"
#include "lmhead/train/step_record.h"
#include "lmhead/train/validation.h"

namespace lmhead {

struct TrainerControl {
  std::function<void(const StepRecord&)> on_step = [](const StepRecord&) {};
  /// Asked after every step; true ends the run with a checkpoint of that step.
  std::function<bool()> should_stop = [] { return false; };
};

/// The loss, the gradient's norm or the validation loss was no longer finite.
class Divergence : public Error {
 public:
  using Error::Error;
};

class Trainer {
 public:
  /// `complete` is the whole of the configuration as it stands in the run folder, which may hold more than the trainer
  /// reads; `completed` makes one of an older version such a one (RunFolder).
  ///
  /// `processes` train together: each has its share of the sequences of every micro-batch, and what is computed of a
  /// step is that of its whole batch. The first alone writes; the others read the folder. Nothing is sent here.
  Trainer(const TrainConfiguration& configuration, const Json& complete, const std::filesystem::path& run_folder,
          const std::function<Json(const Json&)>& completed = {}, const Processes& processes = {});

  void add_observer(std::unique_ptr<Observer> observer) { observers_.push_back(std::move(observer)); }
  /// Called with every step's gradients, those of all processes together, before anything else is made of them; where
  /// the optimiser is sharded each process has its rows.
  void set_gradient_hook(std::function<void(std::vector<at::Tensor>&)> hook) { gradient_hook_ = std::move(hook); }

  /// Trains to the last step or until stopped, from the newest checkpoint where there is one; true when the last step
  /// is done. Throws `Divergence` on a loss that is not finite (the newest checkpoint stays), on a full disk, on data
  /// that cannot be read.
  bool run(const TrainerControl& control = {});

  /// The one of this process: where words are shared out it has its rows of embedding and head alone.
  const CausalModel& model() const { return model_; }
  /// Those that each have rows of embedding and head; this process alone where it has all of them.
  Processes word_processes() const { return sharing_.words ? processes_ : Processes(); }
  const BatchSource& batches() const { return *batches_; }
  /// The step that `run` starts after: 0, or the newest checkpoint's.
  std::int64_t resumed_step() const { return state_.step; }
  /// The threads that wrote that checkpoint; nothing where there is none. Another number adds up in another order.
  std::optional<std::int64_t> resumed_threads() const { return resumed_threads_; }
  /// The same of processes.
  std::optional<std::int64_t> resumed_processes() const { return resumed_processes_; }
  /// What the run is of, by hashes: equal in processes that may train together.
  std::string inputs() const;
  /// What summary.json says of a run in `state`, beside what the caller adds.
  Json summary(const std::string& state) const;
  /// Of the first process alone.
  RunFolder& folder() { return *folder_; }

 private:
  void restore(const Json& complete);
  StepRecord step();
  void require_finite(const char* what, double value) const;
  /// Whether the step's loss is read, and stands in the log.
  bool reads_loss(std::int64_t step) const;
  bool validates(std::int64_t step) const;
  /// Clips and applies gradients with this norm; one that is not finite is skipped where the loss's scale can be why.
  void update(std::vector<at::Tensor>& gradients, double norm, std::int64_t step, double factor);
  const std::vector<Rows>& own_rows() const { return sharing_.layout.shards[std::size_t(processes_.rank())]; }
  /// Of this process's `gradients`, of which each process has its rows or all have the same.
  double norm_of_all(const std::vector<at::Tensor>& gradients, const std::vector<double>& norms) const;
  /// What of the model's tensors in a file is to be read into this process's.
  std::vector<StoredRows> stored_model() const;
  /// The whole model, for a checkpoint; all processes must ask for the same pieces.
  std::vector<TensorPieces> whole_model() const;
  Json observe(StepView& view) const;
  StepContext context_of(std::int64_t step, std::int64_t part) const;
  /// The losses of the step's parts, 0-dim each.
  std::vector<at::Tensor> accumulate_gradients(std::vector<at::Tensor>& gradients, StepView* last,
                                               std::vector<std::pair<std::string, double>>* figures);
  NamedTensors head_gradient_state() const;
  void save();

  TrainConfiguration configuration_;
  c10::Device device_;
  Processes processes_;
  Share share_;                        // of every micro-batch's sequences
  std::unique_ptr<RunFolder> folder_;  // of the first process
  std::unique_ptr<BatchSource> batches_;
  BatchFeed feed_;
  Sharing sharing_;
  CausalModel model_;
  ParameterList parameters_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<GradientExchange> exchange_;   // null where this process is alone
  std::unique_ptr<HeadGradient> head_gradient_;  // null: plain backpropagation
  CheckpointFolder checkpoints_;
  std::optional<FrequencyBands> frequency_bands_;
  TrainingState state_;
  std::optional<std::int64_t> resumed_threads_, resumed_processes_;
  std::vector<std::unique_ptr<Observer>> observers_;
  std::function<void(std::vector<at::Tensor>&)> gradient_hook_ = [](std::vector<at::Tensor>&) {};
  std::vector<double> speeds_;  // tokens per second of every step that the log has
  std::optional<Json> last_validated_line_;
  std::string started_;
};

}  // namespace lmhead
