#include "lmhead/train/sharded_optimizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <map>
#include <utility>

namespace lmhead {
namespace {

class ShardedOptimizer : public Optimizer {
 public:
  ShardedOptimizer(const OptimizerOptions& options, const ParameterList& parameters, const RowShards& shards,
                   const Processes& processes)
      : parameters_(parameters),
        shards_(shards),
        processes_(processes),
        pieces_(pieces_of(parameters, own())),
        optimizer_(make_optimizer(options, pieces_)) {
    std::int64_t sent_at_once = 0;
    for (std::size_t index = 0; index < parameters.size(); ++index) {
      if (parameters[index]->kind == ParameterKind::kConstant) continue;
      const std::int64_t numbers = parameters[index]->value.numel();
      if (buckets_.empty() || sent_at_once + numbers > kBucketNumbers) {
        buckets_.emplace_back();
        sent_at_once = 0;
      }
      sent_at_once += numbers;
      buckets_.back().add(parameters, index, shards);
    }
  }

  void step(std::vector<at::Tensor>& gradients, std::int64_t step, double factor) override {
    for (std::size_t index = 0; index < gradients.size(); ++index)
      if (own()[index].count == 0) gradients[index].reset();  // rules look at what is there
    optimizer_->step(gradients, step, factor);
    send_values();
  }
  NamedTensors state() override { return optimizer_->state(); }
  NamedTensors whole_state() override {
    NamedTensors whole;
    for (const auto& [name, tensor] : optimizer_->state()) {
      const at::Tensor all = gather(name, tensor);
      if (processes_.is_first()) whole.emplace_back(name, all);
    }
    return whole;
  }
  void load(const std::function<void(const NamedTensors&)>& read) override {
    NamedTensors whole;
    for (const auto& [name, tensor] : optimizer_->state())
      whole.emplace_back(name, at::zeros(whole_shape(name, tensor), tensor.options()));
    read(whole);
    const NamedTensors state = optimizer_->state();
    for (std::size_t index = 0; index < state.size(); ++index) {
      const auto& [name, tensor] = state[index];
      at::Tensor into = tensor;
      const std::size_t owner = parameter_of(name);
      if (has_rows(owner, tensor)) into.copy_(rows_of(whole[index].second, own()[owner]));
      else if (own()[owner].count > 0) into.copy_(whole[index].second);
    }
  }

 private:
  const std::vector<Rows>& own() const { return shards_[std::size_t(processes_.rank())]; }

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
  std::vector<std::int64_t> whole_shape(const std::string& name, const at::Tensor& tensor) const {
    const std::size_t parameter = parameter_of(name);
    return has_rows(parameter, tensor) ? parameters_[parameter]->value.sizes().vec() : tensor.sizes().vec();
  }
  at::Tensor gather(const std::string& name, const at::Tensor& tensor) const {
    const std::size_t parameter = parameter_of(name);
    // Of a whole matrix the others have zeros, which nothing has changed.
    return has_rows(parameter, tensor) ? processes_.gather_rows(tensor).view(parameters_[parameter]->value.sizes())
                                       : processes_.sum(tensor);
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
      for (std::size_t process = 0; process < shards_.size(); ++process) {
        if (std::int64_t(process) == processes_.rank()) continue;
        for (std::size_t member = 0; member < bucket.members.size(); ++member) {
          const std::size_t parameter = bucket.members[member];
          rows_of(parameters_[parameter]->value.detach(), shards_[process][parameter])
              .copy_(bucket.place(all[std::int64_t(process)], member, process));
        }
      }
      sent[index] = {};
    }
  }

  ParameterList parameters_;
  RowShards shards_;
  Processes processes_;
  ParameterList pieces_;
  std::unique_ptr<Optimizer> optimizer_;
  std::vector<RowBucket> buckets_;
};

}  // namespace

std::unique_ptr<Optimizer> make_sharded_optimizer(const OptimizerOptions& options, const ParameterList& parameters,
                                                  const RowShards& shards, const Processes& processes) {
  return std::make_unique<ShardedOptimizer>(options, parameters, shards, processes);
}

}  // namespace lmhead
