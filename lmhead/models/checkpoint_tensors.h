// The tensors of a pretrained checkpoint under our names and in our layout.
#pragma once

#include <set>

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
  /// Finds the prefix of the body's names. Both must outlive this object. Matrices are read as `type`, vectors as
  /// float32. Throws where memory cannot hold the weights.
  CheckpointTensors(const TensorFolder& folder, const FamilyModel& model, at::ScalarType type = at::kFloat);

  /// The parameter that a decoder asks for, without gradient.
  ParameterPtr parameter(const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape,
                         const std::vector<RowPart>& parts);
  /// The head's matrix [V, D]: its own, or `embedding` where the two are tied.
  at::Tensor head(const at::Tensor& embedding);
  /// Throws where a tensor was neither used nor is harmless.
  void check_all_used() const;

 private:
  StoredName stored(const std::string& name) const { return stored_name(model_, prefix_, name); }
  void check(const std::string& name, const std::vector<std::int64_t>& shape) const;
  void take(const std::string& name, const at::Tensor& into);
  at::Tensor take(const std::string& name, const std::vector<std::int64_t>& shape, at::ScalarType type);
  void read(const std::string& name, MatrixLayout layout, const at::Tensor& into);

  const TensorFolder& folder_;
  const FamilyModel& model_;
  at::ScalarType type_;
  std::string prefix_;
  std::set<std::string, std::less<>> used_;
};

}  // namespace lmhead
