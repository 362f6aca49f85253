#include <cstdio>
#include <filesystem>

#include "lmhead/base/error.h"
#include "lmhead/base/printable_text.h"
#include "lmhead/cli/commands.h"
#include "lmhead/models/hf_export.h"
#include "lmhead/run/trained_model.h"

namespace lmhead {

int run_export(const ExportRequest& request) {
  const LoadedModel model = open_trained_model(request.run);
  const auto map = model.head->linear_map();
  require(map.has_value(), "export", "head.type must be one whose logits are a linear map of the features, got ",
          model.family,
          ", which no transformers class expresses; the run itself can be used as it is by lmhead measure and lmhead "
          "sample");
  const ModelText& text = model.text;
  const std::string architecture = export_to_hf(*model.decoder, *map, request.folder,
                                                {.max_position_embeddings = model.max_position_embeddings,
                                                 .end_token = text.end_of_document,
                                                 .tokenizer = text.tokenizer});
  std::printf("%s: %s after %lld steps%s\n", printable_text(request.folder).c_str(), architecture.c_str(),
              static_cast<long long>(*model.step), text.tokenizer ? ", with its tokenizer" : "");
  if (!text.tokenizer)
    std::fprintf(stderr, "[export] no tokenizer was written: %s\n",
                 text.is_bytes ? "ids are plain bytes" : "the run's dataset folder has none, or another one");
  return 0;
}

}  // namespace lmhead
