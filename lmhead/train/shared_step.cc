#include "lmhead/train/shared_step.h"

#include <algorithm>

#include "lmhead/base/error.h"

namespace lmhead {

void require_sequences(const DataOptions& data, std::int64_t processes) {
  const std::int64_t sequences = data.batch_size / data.micro_batches;
  require(processes == 1 || processes <= sequences, "train", "a micro-batch must have a sequence for each of the ",
          processes, " processes, got ", sequences, " (data.batch_size ", data.batch_size, ", data.micro_batches ",
          data.micro_batches, ")");
}

Share share_of(const DataOptions& data, const Processes& processes) {
  require_sequences(data, processes.size());
  return {processes.rank(), processes.size()};
}

double meet(const Processes& processes, const DataOptions& data, const std::vector<double>& losses,
            std::vector<std::pair<std::string, double>>& figures, std::vector<double>& has) {
  std::vector<double> own = losses;
  for (const auto& figure : figures) own.push_back(figure.second);
  own.insert(own.end(), has.begin(), has.end());
  const std::vector<std::vector<double>> all = processes.gather(own);
  std::size_t place = losses.size();
  for (auto& figure : figures) {
    figure.second = 0;
    for (const std::vector<double>& of_process : all) figure.second += of_process[place];
    ++place;
  }
  for (double& one : has) {
    for (const std::vector<double>& of_process : all) one = std::max(one, of_process[place]);
    ++place;
  }

  const std::int64_t sequences = data.batch_size / data.micro_batches;
  const bool is_even = sequences % processes.size() == 0;
  double sum = 0;
  for (std::size_t part = 0; part < losses.size(); ++part)
    for (std::int64_t rank = 0; rank < processes.size(); ++rank) {
      const Share share{rank, processes.size()};
      const double loss = all[std::size_t(rank)][part];
      sum += is_even ? loss : loss * double(share.end(sequences) - share.begin(sequences));
    }
  return sum / double(is_even ? std::int64_t(losses.size()) * processes.size() : data.batch_size);
}

void gather_view(const Processes& processes, StepView& view) {
  std::vector<at::Tensor*> rows = {&view.input.hidden,
                                   &view.input.tokens,
                                   &view.input.documents,
                                   &view.targets,
                                   &view.statistics.log_probability,
                                   &view.statistics.logsumexp,
                                   &view.statistics.entropy,
                                   &view.statistics.correct,
                                   &view.statistics.logit_gradient_square,
                                   &view.statistics.hidden_gradient};
  for (at::Tensor& layer : view.input.layers) rows.push_back(&layer);
  for (at::Tensor* tensor : rows) *tensor = processes.gather_rows(*tensor);
}

}  // namespace lmhead
