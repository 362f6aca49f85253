#include "lmhead/cli/transformers_engine.h"

#include "lmhead/base/error.h"
#include "lmhead/cli/python_program.h"
#include "lmhead/measure/load_model.h"
#include "lmhead/measure/window_file.h"
#include "lmhead/models/hf_configuration.h"
#include "lmhead/models/pretrained.h"

namespace lmhead {

namespace fs = std::filesystem;

ForeignModel open_foreign_model(const fs::path& folder) {
  require(fs::is_directory(folder) && fs::is_regular_file(folder / "config.json") && !is_trained_model(folder),
          "measure", "MODEL must be a folder in the Hugging Face layout for --engine transformers, got ",
          folder.string());
  const HfConfiguration configuration = HfConfiguration::read(folder / "config.json");
  const HfConfiguration body = configuration.has("text_config") ? configuration.object("text_config") : configuration;
  ForeignModel model{.folder = folder,
                     .family = configuration.text("model_type"),
                     .text = read_model_text(folder, configuration),
                     .vocab_size = body.size("vocab_size")};
  if (body.has("max_position_embeddings")) model.max_position_embeddings = body.size("max_position_embeddings");
  return model;
}

LoadedModel compute_foreign_features(const ForeignModel& model, const MeasuredTokens& tokens,
                                     const WindowOptions& options, const fs::path& scratch) {
  const fs::path windows = scratch / "windows.safetensors", features = scratch / "features.safetensors";
  WindowReader reader(tokens, options);
  const WrittenWindows written = write_windows(reader, windows, tokens.ids.path());
  run_python_program("lmhead-features",
                     {"--windows", windows.string(), "--out", features.string(), "--", model.folder.string()});
  LoadedModel loaded = load_model(features);
  loaded.kind = ModelKind::kPretrained;
  loaded.family = model.family;
  loaded.features.bytes_per_token = written.bytes_per_token;
  return loaded;
}

}  // namespace lmhead
