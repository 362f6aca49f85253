// How tensors that may be missing and logit transforms travel through dispatcher operations.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <vector>

#include "lmhead/kernels/logit_transform.h"

namespace lmhead {

using OptionalTensor = std::optional<at::Tensor>;
inline OptionalTensor optional_of(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}
inline at::Tensor value_or_undefined(const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); }

/// A tensor that is not there, where a schema wants one.
at::Tensor or_nothing(const at::Tensor& tensor, const at::Tensor& like);
/// The shape of `like`, or of nothing: for meta kernels.
at::Tensor like_or_nothing(bool wanted, const at::Tensor& like);

using TransformNumbers = std::array<double, 6>;
TransformNumbers numbers_of(const LogitTransform& transform);
LogitTransform transform_of(at::ArrayRef<double> numbers);

/// The transform in the words of the public operations; `sigmoid_cap` holds A, b, c or nothing. Throws `[who] ...`.
LogitTransform transform_of(double logit_scale, double logit_softcap, at::ArrayRef<double> sigmoid_cap, bool sigsoftmax,
                            const char* who);
/// The sigmoid cap as those words have it.
std::vector<double> sigmoid_cap_of(const LogitTransform& transform);
/// Those words in a schema.
inline constexpr const char* kTransformSchema =
    "float logit_scale=1.0, float logit_softcap=0.0, float[] sigmoid_cap=[], bool sigsoftmax=False";

}  // namespace lmhead
