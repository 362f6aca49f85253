// Scorer as a class of torch, torch.classes.lmhead.Scorer, so that Python asks the same code.
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <torch/custom_class.h>

#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/evaluate/scorer.h"
#include "lmhead/measure/load_model.h"
#include "lmhead/models/generation.h"

namespace lmhead {
namespace {

LoadedModel open(const std::string& path, const std::string& precision, const std::string& device, bool keeps_weights) {
  require(precision == "float32" || precision == "bfloat16", "evaluate",
          "precision must be float32 or bfloat16, got \"", precision, '"');
  const at::ScalarType type = precision == "float32" ? at::kFloat : at::kBFloat16;
  const c10::Device place = find_device(device, "evaluate");
  return keeps_weights ? load_model(path, type, place) : open_model_by_blocks(path, type, place);
}

class ScorerClass : public torch::CustomClassHolder {
 public:
  ScorerClass(const std::string& path, std::int64_t max_length, const std::string& precision, std::int64_t pass_tokens,
              const std::string& device, bool keeps_weights)
      : scorer_(open(path, precision, device, keeps_weights), {.max_length = max_length, .pass_tokens = pass_tokens}),
        open_whole_([=] { return open(path, precision, device, true); }) {}

  /// `ids` [n] are those of every context and continuation in turn, whose lengths are `lengths` [R, 2].
  std::tuple<at::Tensor, at::Tensor, at::Tensor> score(const at::Tensor& ids, const at::Tensor& lengths) const {
    require(ids.dim() == 1 && ids.scalar_type() == at::kLong && lengths.dim() == 2 && lengths.size(1) == 2 &&
                lengths.scalar_type() == at::kLong && lengths.sum().item<std::int64_t>() == ids.size(0) &&
                (lengths.numel() == 0 || lengths.min().item<std::int64_t>() >= 0),
            "evaluate", "ids must be int64 [n] and lengths int64 [R, 2] that add up to n, got ", ids.sizes(), " and ",
            lengths.sizes());
    const at::Tensor all = ids.contiguous(), parts = lengths.contiguous();
    const std::int64_t* id = all.const_data_ptr<std::int64_t>();
    const std::int64_t* length = parts.const_data_ptr<std::int64_t>();
    std::vector<ScoreRequest> requests(std::size_t(lengths.size(0)));
    for (ScoreRequest& request : requests)
      for (auto* part : {&request.context, &request.continuation}) {
        part->assign(id, id + *length);
        id += *length++;
      }
    const std::vector<Score> scores = scorer_.score(requests);
    const auto count = std::int64_t(scores.size());
    at::Tensor log_probability = at::empty({count}, at::kDouble), is_greedy = at::empty({count}, at::kBool),
               tokens = at::empty({count}, at::kLong);
    for (std::int64_t index = 0; index < count; ++index) {
      const Score& score = scores[std::size_t(index)];
      log_probability.mutable_data_ptr<double>()[index] = score.log_probability;
      is_greedy.mutable_data_ptr<bool>()[index] = score.is_greedy;
      tokens.mutable_data_ptr<std::int64_t>()[index] = score.tokens;
    }
    return {log_probability, is_greedy, tokens};
  }

  /// The ids that follow `prompt` [n], as `lmhead sample` draws them; behind one of `end_tokens` there is nothing.
  at::Tensor generate(const at::Tensor& prompt, std::int64_t max_new_tokens,
                      const std::vector<std::int64_t>& end_tokens, double temperature, std::int64_t top_k, double top_p,
                      std::int64_t seed) {
    require(prompt.dim() == 1 && prompt.scalar_type() == at::kLong, "evaluate", "a prompt must be int64 [n], got ",
            prompt.sizes());
    const at::Tensor ids = prompt.contiguous();
    const std::int64_t* id = ids.const_data_ptr<std::int64_t>();
    const LoadedModel& model = whole_model();
    return at::tensor(lmhead::generate(*model.decoder, *model.head, {id, id + ids.size(0)},
                                       {.sampling = {temperature, top_k, top_p},
                                        .max_new_tokens = max_new_tokens,
                                        .seed = std::uint64_t(seed),
                                        .end_tokens = end_tokens,
                                        .end_of_document = model.text.end_of_document}),
                      at::kLong);
  }

  /// What is known of the model, as JSON.
  std::string describe() const {
    const LoadedModel& model = scorer_.model();
    const ModelText& text = model.text;
    return Json{{"name", model.name},
                {"kind", to_string(model.kind)},
                {"family", model.family},
                {"quantization", model.quantization.empty() ? Json(nullptr) : Json(model.quantization)},
                {"vocab_size", model.head->vocab_size()},
                {"max_length", scorer_.max_length()},
                {"is_bytes", text.is_bytes},
                {"tokenizer", text.tokenizer ? Json(text.tokenizer->string()) : Json(nullptr)},
                {"adds_special_tokens", text.adds_special_tokens},
                {"end_of_document", text.end_of_document ? Json(*text.end_of_document) : Json(nullptr)},
                {"end_tokens", text.end_tokens},
                {"step", model.step ? Json(*model.step) : Json(nullptr)},
                {"training_tokens", model.training_tokens ? Json(*model.training_tokens) : Json(nullptr)}}
        .dump();
  }

 private:
  /// With all weights in memory: every token that is generated goes through all of them.
  const LoadedModel& whole_model() {
    if (!scorer_.model().decoder->block_source()) return scorer_.model();
    const std::lock_guard lock(mutex_);
    if (!whole_) whole_ = open_whole_();
    return *whole_;
  }

  Scorer scorer_;
  std::function<LoadedModel()> open_whole_;
  std::mutex mutex_;
  std::optional<LoadedModel> whole_;
};

TORCH_LIBRARY_FRAGMENT(lmhead, library) {
  library.class_<ScorerClass>("Scorer")
      .def(torch::init<std::string, std::int64_t, std::string, std::int64_t, std::string, bool>())
      .def("score", [](const c10::intrusive_ptr<ScorerClass>& self, const at::Tensor& ids,
                       const at::Tensor& lengths) { return self->score(ids, lengths); })
      .def("generate",
           [](const c10::intrusive_ptr<ScorerClass>& self, const at::Tensor& prompt, std::int64_t max_new_tokens,
              const std::vector<std::int64_t>& end_tokens, double temperature, std::int64_t top_k, double top_p,
              std::int64_t seed) {
             return self->generate(prompt, max_new_tokens, end_tokens, temperature, top_k, top_p, seed);
           })
      .def("describe", [](const c10::intrusive_ptr<ScorerClass>& self) { return self->describe(); });
}

}  // namespace
}  // namespace lmhead
