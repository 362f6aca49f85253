#include "lmhead/train/parallel_layout.h"

#include <algorithm>

#include "lmhead/base/error.h"
#include "lmhead/train/exchange_estimate.h"

namespace lmhead {
namespace {

std::size_t place_of(const ParameterList& parameters, const ParameterPtr& parameter) {
  return std::size_t(std::ranges::find(parameters, parameter) - parameters.begin());
}

}  // namespace

CausalModel shapes_of(const TrainConfiguration& configuration, std::int64_t vocab_size) {
  return CausalModel(configuration.model, configuration.head, vocab_size, shapes_alone());
}

std::optional<std::string> against_sharing_words(const TrainConfiguration& configuration, const CausalModel& shapes,
                                                 std::int64_t processes) {
  const std::string where = " with parallel.vocabulary on, got ";
  if (shapes.head->word_rows().empty())
    return "the head must be one linear map, whose rows nothing else looks at," + where + configuration.head.type() +
           " with its options";
  if (shapes.head->vocab_size() < processes)
    return "the vocabulary must have a word for each of the " + std::to_string(processes) + " processes" + where +
           std::to_string(shapes.head->vocab_size());
  if (!configuration.head_gradient.is_plain_backpropagation())
    return "head_gradient must be left as it is" + where + "a rule that looks at the whole head";
  const ParameterList parameters = shapes.parameters();
  const std::vector<bool> need = need_all_rows(configuration.optimizer, parameters);
  for (const ParameterPtr& parameter : shapes.word_rows())
    if (need[place_of(parameters, parameter)])
      return "the update of " + parameter->name + " must be of each row by itself" + where + "one of the whole matrix";
  return std::nullopt;
}

bool shares_words(const TrainConfiguration& configuration, const CausalModel& shapes, std::int64_t processes) {
  const std::string& choice = configuration.parallel.vocabulary;
  if (choice == "off" || processes == 1) return false;
  const auto against = against_sharing_words(configuration, shapes, processes);
  if (choice == "on") {
    require(!against, "train", against.value_or(""));
    return true;
  }
  const auto sent = [&](bool shared) {
    return estimate_exchange(configuration, shapes, shared, processes).bytes(processes);
  };
  return !against && sent(true) < sent(false);
}

Layout layout_of(const TrainConfiguration& configuration, const CausalModel& shapes, bool shares_words,
                 std::int64_t processes) {
  const ParameterList parameters = shapes.parameters();
  const bool is_sharded = configuration.parallel.optimizer == "sharded" && processes > 1;
  std::vector<Placement> placement(parameters.size(), is_sharded ? Placement::kSharedOut : Placement::kEverywhere);
  if (shares_words)
    for (const ParameterPtr& parameter : shapes.word_rows())
      placement[place_of(parameters, parameter)] = Placement::kHere;
  return lay_out(parameters, placement, need_all_rows(configuration.optimizer, parameters), processes);
}

std::vector<bool> scattered_gradients(const TrainConfiguration& configuration, const CausalModel& shapes,
                                      const Layout& layout) {
  const ParameterList parameters = shapes.parameters();
  const bool has_rule = !configuration.head_gradient.is_plain_backpropagation();
  std::vector<bool> scattered;
  for (std::size_t index = 0; index < parameters.size(); ++index)
    scattered.push_back(layout.is(Placement::kSharedOut, index) &&
                        !(has_rule && parameters[index] == shapes.head->own_matrix()));
  return scattered;
}

Sharing share_out(const TrainConfiguration& configuration, std::int64_t vocab_size, std::int64_t processes) {
  const CausalModel shapes = shapes_of(configuration, vocab_size);
  Sharing sharing{.words = shares_words(configuration, shapes, processes)};
  sharing.layout = layout_of(configuration, shapes, sharing.words, processes);
  sharing.scattered = scattered_gradients(configuration, shapes, sharing.layout);
  if (sharing.words)
    for (const ParameterPtr& parameter : shapes.word_rows()) sharing.word_rows.push_back(parameter->name);
  return sharing;
}

ParameterSource rows_of_share(const ParameterSource& source, const std::vector<std::string>& names,
                              const Share& share) {
  return [=](const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape,
             const Initializer& initializer, const std::vector<RowPart>& parts) {
    const ParameterPtr parameter = source(name, kind, shape, initializer, parts);
    if (std::ranges::find(names, name) == names.end()) return parameter;
    const std::int64_t first = share.begin(shape[0]), count = share.end(shape[0]) - first;
    parameter->value = parameter->value.detach().narrow(0, first, count).clone().requires_grad_(true);
    parameter->working = parameter->value;
    return parameter;
  };
}

}  // namespace lmhead
