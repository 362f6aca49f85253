// The tensors of a pretrained checkpoint under our names and in our layout.
#pragma once

#include <map>
#include <optional>

#include "lmhead/models/decoder.h"
#include "lmhead/models/families.h"
#include "lmhead/models/safetensors_folder.h"

namespace lmhead {

/// Where a family's checkpoint keeps one of our tensors.
struct StoredName {
  std::string name;
  MatrixLayout layout;
  bool is_known;  // there is a rule for the module
};
/// Turns `model.layers.N.MODULE.weight` or `model.MODULE.weight` into the checkpoint's name.
StoredName stored_name(const FamilyModel& model, const std::string& body_prefix, const std::string& name);

/// Gives the parameters of one family's checkpoint and keeps account of which tensors were used.
class CheckpointTensors {
 public:
  /// Finds the prefix of the body's names. Both must outlive this object. Matrices are read as `type`,
  /// embeddings and the head as `table_type`, vectors as float32.
  CheckpointTensors(const TensorFolder& folder, const FamilyModel& model, at::ScalarType type,
                    at::ScalarType table_type);
  /// Throws where memory cannot hold the weights, all of their matrices as `type`.
  void require_memory_for_all() const;

  /// From now on embeddings and the head are read into unnamed files of `folder` (scratch_tensor.h); none: memory.
  void keep_tables_in(const std::optional<std::filesystem::path>& folder) { tables_folder_ = folder; }

  /// The parameter that a decoder asks for, without gradient.
  ParameterPtr parameter(const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape,
                         const std::vector<RowPart>& parts);
  /// The same with a shape and no memory, once all of its tensors are known to be there and to fit. They count as used.
  ParameterPtr promised_parameter(const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape,
                                  const std::vector<RowPart>& parts);
  /// The checkpoint's tensors that a parameter is made of.
  std::vector<std::string> tensors_of(const std::string& name, const std::vector<RowPart>& parts) const;
  /// Rows `ids`, ascending, of a matrix that is stored as ours is: [ids, columns].
  at::Tensor rows(const std::string& name, const std::vector<std::int64_t>& ids);
  /// The head's matrix [V, D]: its own, or `embedding` where the two are tied.
  at::Tensor head(const at::Tensor& embedding);
  /// Throws where a tensor was neither used nor is harmless.
  void check_all_used() const;

 private:
  /// A stored tensor and the shape that it has among ours.
  struct Piece {
    StoredName from;
    std::vector<std::int64_t> shape;
  };
  std::vector<Piece> pieces_of(const std::string& name, const std::vector<std::int64_t>& shape,
                               const std::vector<RowPart>& parts) const;
  StoredName stored(const std::string& name) const { return stored_name(model_, prefix_, name); }
  void check(const std::string& name, const std::vector<std::int64_t>& shape) const;
  void check(const std::vector<Piece>& pieces) const;
  at::ScalarType type_of(ParameterKind kind) const;
  void require_finite(const std::string& name, const at::Tensor& values) const;
  at::Tensor allocate(const std::string& name, const std::vector<std::int64_t>& shape, at::ScalarType type,
                      const std::optional<std::filesystem::path>& folder = std::nullopt) const;
  void take(const std::string& name, const at::Tensor& into);
  at::Tensor take(const std::string& name, const std::vector<std::int64_t>& shape, at::ScalarType type,
                  const std::optional<std::filesystem::path>& folder = std::nullopt);
  void read(const std::string& name, MatrixLayout layout, const at::Tensor& into);

  const TensorFolder& folder_;
  const FamilyModel& model_;
  at::ScalarType type_, table_type_;
  std::optional<std::filesystem::path> tables_folder_;
  std::string prefix_;
  std::map<std::string, bool, std::less<>> used_;  // and whether all of it was found finite
};

}  // namespace lmhead
