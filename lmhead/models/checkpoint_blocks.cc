#include "lmhead/models/checkpoint_blocks.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_unique2.h>

#include <algorithm>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "lmhead/base/device.h"
#include "lmhead/base/error.h"
#include "lmhead/base/memory.h"

namespace lmhead {
namespace {

constexpr std::size_t kMostFree = std::size_t{128} << 20;  // bytes that the C library may hold between blocks
constexpr const char* kEmbedding = "model.embed_tokens.weight";

bool is_larger_than_half_of_memory(const TensorFolder& folder) {
  double bytes = 0;
  for (const SafetensorsFile& file : folder.files())
    for (const std::string& name : file.names()) bytes += double(file.info(name).bytes());
  const auto available = available_memory();
  return available && bytes > double(*available) / 2;
}

}  // namespace

CheckpointBlocks::CheckpointBlocks(const std::filesystem::path& folder, FamilyModel model, at::ScalarType type,
                                   at::ScalarType table_type, c10::Device device)
    : model_(std::move(model)),
      folder_(TensorFolder::open(folder)),
      tensors_(folder_, model_, type, table_type),
      device_(device),
      drops_cache_(is_larger_than_half_of_memory(folder_)) {}

CheckpointBlocks::~CheckpointBlocks() { stop_reading_ahead(); }

ParameterSource CheckpointBlocks::parameters() {
  return [this](const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape, const Initializer&,
                const std::vector<RowPart>& parts) {
    const bool is_table = name == kEmbedding && !model_.tie_word_embeddings;
    if (is_table) has_embedding_ = false;
    return is_table || name.starts_with("model.layers.") ? tensors_.promised_parameter(name, kind, shape, parts)
                                                         : tensors_.parameter(name, kind, shape, parts);
  };
}

void CheckpointBlocks::serve(const Decoder& decoder) {
  for (std::size_t layer = 0; layer < decoder.specification().layers.size(); ++layer) {
    StoredBlock block{decoder.block_parameters(layer), {}, {}};
    for (const ParameterPtr& parameter : block.parameters) {
      block.promised.push_back(parameter->value);
      for (std::string& name : tensors_.tensors_of(parameter->name, parameter->parts))
        block.tensors.push_back(std::move(name));
    }
    blocks_.push_back(std::move(block));
  }
}

void CheckpointBlocks::load(std::size_t layer) {
  at::NoGradGuard no_grad;
  stop_reading_ahead();
  const StoredBlock& block = blocks_.at(layer);
  try {
    for (const ParameterPtr& parameter : block.parameters) {
      const ParameterPtr read =
          tensors_.parameter(parameter->name, parameter->kind, parameter->value.sizes().vec(), parameter->parts);
      parameter->value = parameter->working = on_device(read->value, device_);
    }
    finish_reading(block.tensors);
  } catch (...) {
    release(layer);
    throw;
  }
  if (layer + 1 < blocks_.size()) read_ahead(layer + 1);
}

void CheckpointBlocks::release(std::size_t layer) noexcept {
  const StoredBlock& block = blocks_[layer];
  for (std::size_t place = 0; place < block.parameters.size(); ++place)
    block.parameters[place]->value = block.parameters[place]->working = block.promised[place];
#ifdef __GLIBC__
  // The next block's activations take the places of this one's; behind the last one comes what needs others.
  if (layer + 1 == blocks_.size() || ::mallinfo2().fordblks > kMostFree) ::malloc_trim(0);
#endif
}

/// Only rows of tokens that occur are read, so only they need be finite.
at::Tensor CheckpointBlocks::embedding_rows(const at::Tensor& tokens) {
  if (has_embedding_) return {};
  at::NoGradGuard no_grad;
  const auto [ids, places, counts] = at::_unique2(tokens.cpu(), /*sorted=*/true, /*return_inverse=*/true);
  const std::int64_t vocab_size = model_.decoder.vocab_size;
  const auto* begin = ids.const_data_ptr<std::int64_t>();
  const std::vector<std::int64_t> wanted(begin, begin + ids.numel());
  require(wanted.empty() || (wanted.front() >= 0 && wanted.back() < vocab_size), "decoder", "tokens must lie in [0, ",
          vocab_size, "), got ids from ", wanted.empty() ? 0 : wanted.front(), " to ",
          wanted.empty() ? 0 : wanted.back());
  const at::Tensor rows = tensors_.rows(kEmbedding, wanted);
  bytes_read_ += std::uint64_t(rows.nbytes());
  folder_.file_of(tensors_.tensors_of(kEmbedding, {}).front()).require_unchanged();
  return on_device(rows.index_select(0, places.flatten()), device_).view({tokens.size(0), tokens.size(1), -1});
}

void CheckpointBlocks::read_ahead(std::size_t layer) {
  stopped_ = false;
  reader_ = std::thread([this, layer] {
    for (const std::string& name : blocks_[layer].tensors) folder_.file_of(name).read_ahead(name, stopped_);
  });
}

void CheckpointBlocks::stop_reading_ahead() {
  stopped_ = true;
  if (reader_.joinable()) reader_.join();
}

void CheckpointBlocks::finish_reading(const std::vector<std::string>& tensors) {
  for (const std::string& name : tensors) {
    const SafetensorsFile& file = folder_.file_of(name);
    file.require_unchanged();
    if (drops_cache_) file.drop_cached(name);
    bytes_read_ += file.info(name).bytes();
  }
}

}  // namespace lmhead
