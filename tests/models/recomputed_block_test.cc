// Blocks that are computed again give the same bits.
#include "lmhead/models/recomputed_block.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "tests/models/model_fixtures.h"

namespace lmhead {
namespace {

TEST(RecomputedBlocks, GiveTheSameBitsInEveryKindOfDecoder) {
  for (const Variant& variant : variants())
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      Decoder decoder = make_decoder(variant.options, 23);
      randomise(decoder.parameters());
      set_working_type(decoder.parameters(), type);
      const at::Tensor tokens = draw_ids({2, 9}, 23);
      std::vector<at::Tensor> results[2];
      for (const bool recomputes : {false, true}) {
        decoder.recompute_blocks(recomputes);
        std::vector<at::Tensor> layers;
        const at::Tensor hidden = decoder.forward(tokens, &layers);
        std::vector<at::Tensor>& found = results[recomputes];
        found.push_back(hidden.detach());
        (hidden.to(at::kFloat) * hidden.detach().to(at::kFloat).cos()).sum().backward();
        for (const at::Tensor& layer : layers) found.push_back(layer.detach());
        for (const ParameterPtr& parameter : decoder.parameters()) found.push_back(take_gradient(*parameter));
      }
      ASSERT_EQ(results[0].size(), results[1].size());
      for (std::size_t index = 0; index < results[0].size(); ++index) {
        ASSERT_TRUE(results[0][index].defined()) << variant.name;
        EXPECT_TRUE(results[1][index].equal(results[0][index])) << variant.name << " " << type << ", result " << index;
      }
    }
}

TEST(RecomputedBlocks, AreRunInTheBackwardPassAndOnlyThere) {
  int runs = 0;
  const DecoderBlock block = [&](const at::Tensor& input) {
    ++runs;
    return input.square();
  };
  const at::Tensor input = at::Tensor(draw_ids({5}, 9)).to(at::kDouble).requires_grad_();
  {
    const at::NoGradGuard no_grad;
    recomputed(block, input);
    EXPECT_EQ(runs, 1);
  }
  const at::Tensor output = recomputed(block, input);
  EXPECT_EQ(runs, 2);
  output.sum().backward();
  EXPECT_EQ(runs, 3);
  EXPECT_TRUE(input.grad().equal(2 * input.detach()));
}

}  // namespace
}  // namespace lmhead
