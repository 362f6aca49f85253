// The parameters of a decoder's blocks where they are in memory only while a pass is in them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>

namespace lmhead {

/// Brings the parameters of one block after another into memory, for a decoder that has them nowhere else.
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  /// Gives the parameters of block `layer` their values. Throws on what is wrong with them.
  virtual void load(std::size_t layer) = 0;
  /// Takes them out of memory again; they keep their shapes. Never throws.
  virtual void release(std::size_t layer) noexcept = 0;
  /// Rows of the embedding [.., D] for ids `tokens`; undefined where the decoder has the whole of it.
  virtual at::Tensor embedding_rows(const at::Tensor& tokens) = 0;
  /// Where the values are brought to.
  virtual c10::Device device() const = 0;
  /// Bytes of files that were read so far for the two above.
  virtual std::uint64_t bytes_read() const = 0;
};

}  // namespace lmhead
