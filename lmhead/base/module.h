// Parameters and the things that own them.
//
// torch::nn::Module would do, but its header costs 15 s a file and it knows nothing of the two tensors that a
// parameter has in mixed precision.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace lmhead {

class RandomStream;

/// What a parameter is to optimisers and to mixed precision.
enum class ParameterKind {
  kMatrix,     // multiplies features; cast in mixed precision
  kEmbedding,  // rows are looked up; multiplied too where the head is tied
  kHead,       // belongs to the LM head; cast in mixed precision
  kVector,     // gains and biases of a norm; always float32
  kBias,       // added to a product; cast in mixed precision
  kConstant,   // belongs to the model and is saved with it, but never trained (a permutation); always float32
};

/// Consecutive rows of a parameter that are one tensor to everybody outside (q, k and v of a fused projection).
struct RowPart {
  std::string name;
  std::int64_t rows;
};

/// One trained tensor. `value` is the float32 master that optimisers and checkpoints see; `working` is what modules
/// compute with: `value` itself, or in mixed precision a copy of it that is refreshed once a step.
struct Parameter {
  std::string name;
  ParameterKind kind;
  at::Tensor value;
  at::Tensor working;
  std::vector<RowPart> parts;  // empty: the parameter is one tensor under its own name
};
using ParameterPtr = std::shared_ptr<Parameter>;

/// Fills a fresh float32 tensor; the stream is named after the parameter.
using Initializer = std::function<void(at::Tensor&, RandomStream&)>;
Initializer normal_initializer(double standard_deviation);
Initializer constant_initializer(double value);

/// Makes parameters whose initial values depend only on the seed and on their own name.
class ParameterFactory {
 public:
  explicit ParameterFactory(std::uint64_t seed) : seed_(seed) {}
  ParameterPtr make(std::string name, ParameterKind kind, at::IntArrayRef shape, const Initializer& initializer,
                    std::vector<RowPart> parts = {}) const;

 private:
  std::uint64_t seed_;
};

/// Gives a decoder or a head the parameters that it asks for: fresh ones, or those of a checkpoint.
using ParameterSource =
    std::function<ParameterPtr(const std::string& name, ParameterKind kind, const std::vector<std::int64_t>& shape,
                               const Initializer& initializer, const std::vector<RowPart>& parts)>;

/// Parameters whose initial values depend on the seed and on their names alone.
ParameterSource fresh_parameters(std::uint64_t seed);
/// Parameters with memory and no values yet, to be read from a file: initializers are not called.
ParameterSource unset_parameters();
/// Parameters with a shape and no memory.
ParameterSource shapes_alone();

using ParameterList = std::vector<ParameterPtr>;

/// How many numbers are trained: those of every parameter but constants.
std::int64_t count_trained(const ParameterList& parameters);

/// Moves values to `device`, with `working` at them; the same values everywhere, for they are drawn on the CPU.
void move_parameters(const ParameterList& parameters, c10::Device device);
/// Points `working` at `value` (float32), or at fresh copies in `type` for every kind that is cast.
void set_working_type(const ParameterList& parameters, at::ScalarType type);
/// Copies `value` into the `working` copies, where there are copies.
void refresh_working(const ParameterList& parameters);
/// The sum of the gradients on `value` and `working` in float32, undefined where neither has one; both are cleared.
at::Tensor take_gradient(Parameter& parameter);

}  // namespace lmhead
