#include "lmhead/models/shared_embedding.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/embedding_dense_backward.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <utility>
#include <vector>

#include "lmhead/base/error.h"
#include "lmhead/processes/all_tokens.h"

namespace lmhead {
namespace {

using torch::autograd::variable_list;

/// Of the tokens of all processes.
struct KeptIds : torch::CustomClassHolder {
  KeptIds(AllTokens all, const at::Tensor& places)
      : tokens(std::move(all)), row(places.clamp_min(0)), is_elsewhere(places.lt(0).unsqueeze(1)) {}
  AllTokens tokens;
  at::Tensor row, is_elsewhere;  // [M], [M, 1]; row 0 stands for one that another process has
};

struct SharedEmbedding : torch::autograd::Function<SharedEmbedding> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& rows, const at::Tensor& tokens,
                            std::int64_t vocab_size, const Processes& processes) {
    const AllTokens all(tokens.numel(), processes, TokensOf::kThisProcess);
    const at::Tensor ids = all.gather(tokens.flatten());
    auto kept = c10::make_intrusive<KeptIds>(all, places_of_ids(ids, vocab_size, rows.size(0), processes));
    const at::Tensor found = at::embedding(rows, kept->row).masked_fill_(kept->is_elsewhere, 0);
    std::vector<std::int64_t> shape = tokens.sizes().vec();
    shape.push_back(rows.size(1));
    context->saved_data["kept"] = c10::IValue::make_capsule(kept);
    context->saved_data["rows"] = rows.size(0);
    return all.scatter_sum(found).view(shape);
  }

  static variable_list backward(torch::autograd::AutogradContext* context, const variable_list& upstreams) {
    require(!at::GradMode::is_enabled(), "decoder",
            "create_graph must be false for an embedding whose words are shared out");
    const auto kept = c10::static_intrusive_pointer_cast<KeptIds>(context->saved_data["kept"].toCapsule());
    const at::Tensor all = kept->tokens.gather(upstreams[0].flatten(0, -2)).masked_fill_(kept->is_elsewhere, 0);
    return {at::embedding_dense_backward(all, kept->row, context->saved_data["rows"].toInt(), /*padding_idx=*/-1,
                                         /*scale_grad_by_freq=*/false),
            {},
            {},
            {}};
  }
};

}  // namespace

at::Tensor shared_embedding(const at::Tensor& rows, const at::Tensor& tokens, std::int64_t vocab_size,
                            const Processes& processes) {
  if (processes.alone()) return at::embedding(rows, tokens);
  return SharedEmbedding::apply(rows, tokens, vocab_size, processes);
}

}  // namespace lmhead
