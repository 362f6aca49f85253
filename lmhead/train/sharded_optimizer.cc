#include "lmhead/train/sharded_optimizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <utility>

#include "lmhead/train/gathered_rows.h"

namespace lmhead {
namespace {

/// Parameters that share the memory of the rows that a process updates, under the same names.
ParameterList updated_pieces(const ParameterList& parameters, const Layout& layout, const std::vector<Rows>& own) {
  std::vector<Rows> rows = own;
  for (std::size_t index = 0; index < rows.size(); ++index)
    if (layout.is(Placement::kHere, index)) rows[index].first = 0;  // of what is here
  return pieces_of(parameters, rows);
}

class ShardedOptimizer : public Optimizer {
 public:
  ShardedOptimizer(const OptimizerOptions& options, const ParameterList& parameters, const Layout& layout,
                   const Processes& processes)
      : parameters_(parameters),
        layout_(layout),
        processes_(processes),
        pieces_(updated_pieces(parameters, layout, own())),
        optimizer_(make_optimizer(options, pieces_)),
        buckets_(value_buckets(parameters, layout)) {}

  void step(std::vector<at::Tensor>& gradients, std::int64_t step, double factor) override {
    for (std::size_t index = 0; index < gradients.size(); ++index)
      if (own()[index].count == 0) gradients[index].reset();  // rules look at what is there
    optimizer_->step(gradients, step, factor);
    send_values();
  }
  NamedTensors state() override { return optimizer_->state(); }
  std::vector<TensorPieces> whole_state() override {
    std::vector<TensorPieces> whole;
    for (const auto& [name, tensor] : optimizer_->state()) whole.push_back(whole_of(name, tensor));
    return whole;
  }
  std::vector<StoredRows> stored_state() override {
    std::vector<StoredRows> all;
    for (const auto& [name, tensor] : optimizer_->state()) {
      const std::size_t owner = parameter_of(name);
      const Rows& rows = own()[owner];
      if (has_rows(owner, tensor)) all.push_back({name, tensor, layout_.shapes[owner], rows.first});
      else all.push_back({name, rows.count > 0 ? tensor : at::Tensor(), tensor.sizes().vec()});
    }
    return all;
  }

 private:
  const std::vector<Rows>& own() const { return layout_.shards[std::size_t(processes_.rank())]; }

  /// The parameter that a state tensor `NAME.what` is of.
  std::size_t parameter_of(const std::string& name) const {
    const std::string of = name.substr(0, name.rfind('.'));
    for (std::size_t index = 0; index < parameters_.size(); ++index)
      if (parameters_[index]->name == of) return index;
    fail("optimizer", "a state must be of a parameter, got ", name);
  }
  /// Whether a state tensor has a row for each of the piece; else it is of a whole matrix, and its owner alone has it.
  bool has_rows(std::size_t parameter, const at::Tensor& tensor) const {
    return tensor.dim() == pieces_[parameter]->value.dim();
  }
  TensorPieces whole_of(const std::string& name, const at::Tensor& tensor) const {
    const std::size_t parameter = parameter_of(name);
    const bool is_here = layout_.is(Placement::kEverywhere, parameter);
    if (has_rows(parameter, tensor)) {
      if (is_here) return in_one_piece({{name, tensor.view(layout_.shapes[parameter])}}).front();
      return gathered_rows(name, tensor, layout_.shapes[parameter], layout_.rows_of_processes(parameter), processes_);
    }
    // Of a whole matrix the others have zeros, which nothing has changed.
    const auto give = [tensor, is_here, processes = processes_](const auto& use) {
      use(is_here ? tensor : processes.sum(tensor));
    };
    return {name, tensor.scalar_type(), tensor.sizes().vec(), give};
  }

  void send_values() {
    at::NoGradGuard no_grad;
    std::vector<std::pair<at::Tensor, at::Tensor>> sent;  // what is sent must live until it has arrived
    for (const RowBucket& bucket : buckets_) {
      const at::Tensor line = at::zeros({bucket.chunk}, pieces_[bucket.members.front()]->value.options());
      for (std::size_t member = 0; member < bucket.members.size(); ++member)
        bucket.place(line, member, std::size_t(processes_.rank())).copy_(pieces_[bucket.members[member]]->value);
      sent.emplace_back(line, processes_.begin_gather(line));
    }
    for (std::size_t index = 0; index < buckets_.size(); ++index) {
      const RowBucket& bucket = buckets_[index];
      const at::Tensor& all = sent[index].second;
      processes_.wait(all);
      for (std::size_t process = 0; process < layout_.shards.size(); ++process) {
        if (std::int64_t(process) == processes_.rank()) continue;
        for (std::size_t member = 0; member < bucket.members.size(); ++member) {
          const std::size_t parameter = bucket.members[member];
          rows_of(parameters_[parameter]->value.detach(), layout_.shards[process][parameter])
              .copy_(bucket.place(all[std::int64_t(process)], member, process));
        }
      }
      sent[index] = {};
    }
  }

  ParameterList parameters_;
  Layout layout_;
  Processes processes_;
  ParameterList pieces_;
  std::unique_ptr<Optimizer> optimizer_;
  std::vector<RowBucket> buckets_;
};

}  // namespace

std::unique_ptr<Optimizer> make_sharded_optimizer(const OptimizerOptions& options, const ParameterList& parameters,
                                                  const Layout& layout, const Processes& processes) {
  return std::make_unique<ShardedOptimizer>(options, parameters, layout, processes);
}

}  // namespace lmhead
