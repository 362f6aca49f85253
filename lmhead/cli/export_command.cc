#include <cstdio>
#include <filesystem>

#include "lmhead/base/error.h"
#include "lmhead/cli/commands.h"
#include "lmhead/models/hf_export.h"
#include "lmhead/run/trained_model.h"

namespace lmhead {

int run_export(const ExportRequest& request) {
  const TrainedModel trained = open_trained_model(request.run);
  const CausalModel& model = trained.model;
  const auto map = model.head->linear_map();
  require(map.has_value(), "export", "head.type must be one whose logits are a linear map of the features, got ",
          trained.configuration.train.head.type(),
          ", which no transformers class expresses; the run itself can be used as it is by lmhead measure and lmhead "
          "sample");
  const RunText text = text_of_run(trained);
  const std::string architecture =
      export_to_hf(model.decoder, *map, request.folder,
                   {.max_position_embeddings = trained.configuration.train.model.max_position_embeddings,
                    .end_token = text.end_of_document,
                    .tokenizer = text.tokenizer});
  std::printf("%s: %s after %lld steps%s\n", request.folder.c_str(), architecture.c_str(),
              static_cast<long long>(trained.state.step), text.tokenizer ? ", with its tokenizer" : "");
  if (!text.tokenizer)
    std::fprintf(stderr, "[export] no tokenizer was written: %s\n",
                 text.is_bytes ? "ids are plain bytes" : "the run's dataset folder has none, or another one");
  return 0;
}

}  // namespace lmhead
