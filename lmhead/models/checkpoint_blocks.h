// The blocks of a pretrained checkpoint, read out of its shards when a pass comes to them.
#pragma once

#include <atomic>
#include <set>
#include <thread>

#include "lmhead/models/block_source.h"
#include "lmhead/models/checkpoint_tensors.h"

namespace lmhead {

/// Reads a block's tensors in the types of `CheckpointTensors`, and meanwhile, in a thread of its own, has the system
/// fetch those of the next one. Files are read and not mapped: of a mapping, a shard that is cut short would be a
/// signal. Where the checkpoint is larger than half of the memory that is free, what was read is dropped from the
/// system's cache. Memory: one block, and while a matrix is rearranged that matrix.
class CheckpointBlocks : public BlockSource {
 public:
  CheckpointBlocks(const std::filesystem::path& folder, FamilyModel model, at::ScalarType type,
                   at::ScalarType table_type, c10::Device device);
  ~CheckpointBlocks() override;

  const FamilyModel& model() const { return model_; }
  CheckpointTensors& tensors() { return tensors_; }
  /// What a decoder of `model()` is made from: blocks, and an embedding that is not the head, are promised alone.
  ParameterSource parameters();
  /// Takes note of the blocks of the decoder that was made.
  void serve(const Decoder& decoder);

  void load(std::size_t layer) override;
  void release(std::size_t layer) noexcept override;
  at::Tensor embedding_rows(const at::Tensor& tokens) override;
  c10::Device device() const override { return device_; }
  std::uint64_t bytes_read() const override { return bytes_read_; }

 private:
  struct StoredBlock {
    ParameterList parameters;
    std::vector<at::Tensor> promised;  // their values while they are not in memory
    std::vector<std::string> tensors;
  };
  void read_ahead(std::size_t layer);
  void stop_reading_ahead();
  void finish_reading(const std::vector<std::string>& tensors);

  FamilyModel model_;
  TensorFolder folder_;
  CheckpointTensors tensors_;
  c10::Device device_;
  std::vector<StoredBlock> blocks_;
  bool has_embedding_ = true;  // in memory
  bool drops_cache_;
  std::uint64_t bytes_read_ = 0;
  std::atomic<bool> stopped_ = false;
  std::thread reader_;
};

}  // namespace lmhead
