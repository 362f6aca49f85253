// A pretrained model out of a folder in the Hugging Face layout.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>

#include "lmhead/models/hf_configuration.h"
#include "lmhead/models/loaded_model.h"

namespace lmhead {

/// Reads `config.json` and the safetensors file or shards beside it. Families: see `families()`.
///
/// Everything is float32; the head's matrix is the embedding's own where the two are tied. Memory: one float32
/// copy of the weights, and one matrix while it is rearranged; throws where there is too little, before it is taken.
/// Parameters take no gradient. The text's ends are those of
/// generation_config.json before those of config.json. Throws, naming file and key or tensor, on whatever is missing,
/// misshapen, left over or not finite; harmless buffers (causal masks, rotary frequencies) are ignored.
///
/// In another `type` the matrices are that from the start, copies all of them; vectors stay float32.
LoadedModel load_pretrained(const std::filesystem::path& folder, at::ScalarType type = at::kFloat);

using BeforeReading = std::function<std::optional<std::filesystem::path>(const LoadedModel& described)>;

/// The same model with no block in memory: each is read, as `type`, when a pass comes to it, and given back behind it
/// (block_source.h). So is the embedding, row by row, where the head has a matrix of its own. Embedding and head are
/// of `table_type`.
///
/// That every tensor is there and fits is checked here; that its numbers are finite, and that its file is still the one
/// that was opened, when it is read. Passes compute on `device`; embedding and head are the caller's to move there.
/// `before_reading` is called before the first of them is read, with a decoder of shapes alone and no head; it says in
/// whose unnamed files embedding and head are to lie (scratch_tensor.h), if not in memory.
LoadedModel open_pretrained(const std::filesystem::path& folder, at::ScalarType type = at::kFloat,
                            c10::Device device = c10::Device(c10::DeviceType::CPU),
                            const BeforeReading& before_reading = {}, at::ScalarType table_type = at::kFloat);

/// What is known of the text behind the ids of a folder's model, whose `configuration` is its config.json.
ModelText read_model_text(const std::filesystem::path& folder, const HfConfiguration& configuration);

}  // namespace lmhead
