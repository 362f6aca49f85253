#include "lmhead/measure/window_file.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include "lmhead/base/error.h"
#include "lmhead/models/safetensors.h"

namespace lmhead {

WrittenWindows write_windows(WindowReader& reader, const std::filesystem::path& file,
                             const std::filesystem::path& text) {
  std::vector<at::Tensor> inputs, targets, positions, documents;
  WrittenWindows written{.targets = 0, .bytes_per_token = std::nullopt};
  double bytes = 0;
  bool has_bytes = true;
  while (const auto batch = reader.next()) {
    const at::Tensor counted = batch->targets.ne(-100);
    inputs.push_back(batch->tokens.flatten().masked_select(counted));
    targets.push_back(batch->targets.masked_select(counted));
    positions.push_back(batch->positions.masked_select(counted));
    if (batch->documents.defined()) documents.push_back(batch->documents.masked_select(counted));
    written.targets += batch->scored;
    has_bytes = has_bytes && batch->bytes.has_value();
    bytes += batch->bytes.value_or(0);
  }
  require(written.targets > 0, "measure", "the text must hold two tokens of one document at least, got none in ",
          text.string());
  if (has_bytes) written.bytes_per_token = bytes / double(written.targets);
  std::vector<std::pair<std::string, at::Tensor>> tensors = {
      {"inputs", at::cat(inputs)}, {"targets", at::cat(targets)}, {"positions", at::cat(positions)}};
  if (!documents.empty()) tensors.emplace_back("documents", at::cat(documents));
  write_safetensors(file, tensors);
  return written;
}

}  // namespace lmhead
