// Windows against their definition, and published figures of real models where ../shared/data is there.
#include "lmhead/measure/measurement.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/kernels/linear_cross_entropy.h"
#include "lmhead/measure/load_model.h"
#include "lmhead/models/pretrained.h"
#include "lmhead/models/safetensors.h"

namespace lmhead {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int64_t>;
const fs::path kShared = LMHEAD_SHARED_DATA;

class Measurement : public testing::Test {
 protected:
  Measurement() {
    std::string pattern = (fs::temp_directory_path() / "measurement-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~Measurement() override { fs::remove_all(folder_); }

  template <class Stored>
  fs::path write_ids(const char* name, const Ids& ids) {
    std::ofstream out(folder_ / name, std::ios::binary);
    for (const std::int64_t id : ids) {
      const auto stored = Stored(id);
      out.write(reinterpret_cast<const char*>(&stored), sizeof stored);
    }
    return folder_ / name;
  }
  fs::path write_text(const Ids& ids, const Ids& lengths, const Ids& documents, std::int64_t vocab_size) {
    write_ids<std::uint32_t>("tokens.bin", ids);
    write_ids<std::uint32_t>("lengths.bin", lengths);
    const Json json = {
        {"tokenizer", "some/tokenizer.json"}, {"vocab_size", vocab_size}, {"document_tokens", documents}};
    write_file_atomic(folder_ / "tokens.json", json.dump());
    return folder_;
  }
  fs::path write_features(const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
    write_safetensors(folder_ / "features.safetensors", tensors);
    return folder_ / "features.safetensors";
  }

  fs::path folder_;
};

/// One scored token, as a window shows it.
struct Scored {
  std::int64_t input, target, position, document;
  bool operator==(const Scored&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Scored& s) {
  return out << s.input << ">" << s.target << "@" << s.position << "#" << s.document;
}

struct Read {
  std::vector<Scored> scored;
  double bytes = 0;
  std::int64_t batches = 0, widest = 0;
};

Read read_all(const MeasuredTokens& tokens, const WindowOptions& options) {
  WindowReader reader(tokens, options);
  Read read;
  while (const auto batch = reader.next()) {
    ++read.batches;
    read.widest = std::max(read.widest, batch->tokens.numel());
    read.bytes += batch->bytes.value_or(0);
    const at::Tensor inputs = batch->tokens.view({-1});
    std::int64_t scored = 0;
    for (std::int64_t row = 0; row < inputs.size(0); ++row) {
      const auto target = batch->targets[row].item<std::int64_t>();
      if (target == -100) continue;
      ++scored;
      read.scored.push_back({inputs[row].item<std::int64_t>(), target, batch->positions[row].item<std::int64_t>(),
                             batch->documents.defined() ? batch->documents[row].item<std::int64_t>() : -1});
    }
    EXPECT_EQ(scored, batch->scored);
  }
  return read;
}

TEST_F(Measurement, WindowsAreConsecutiveAndScoreEveryTokenButTheFirst) {
  Ids ids(23);
  for (std::int64_t at = 0; at < 23; ++at) ids[at] = at;
  const MeasuredTokens tokens = open_measured_tokens(write_ids<std::uint16_t>("ids.bin", ids), 100, {});
  for (const std::int64_t length : {1, 2, 5, 11, 22, 23, 50})
    for (const std::int64_t batch : {1, 7, 1000}) {
      std::vector<Scored> expected;
      for (std::int64_t at = 0; at + 1 < 23; ++at) expected.push_back({at, at + 1, at % length, -1});
      EXPECT_EQ(read_all(tokens, {.sequence_length = length, .batch_tokens = batch}).scored, expected) << length;
    }
}

TEST_F(Measurement, WindowsByDocumentNeverCrossOne) {
  const Ids ids = {5, 6, 9, 7, 9, 9, 1, 2, 3, 4, 9, 8};  // 9 ends a document; one holds nothing but its end
  const MeasuredTokens tokens = open_measured_tokens(write_ids<std::uint16_t>("ids.bin", ids), 10, 9);
  const std::vector<Scored> expected = {{5, 6, 0, 0}, {6, 9, 1, 0}, {7, 9, 0, 1}, {1, 2, 0, 3},
                                        {2, 3, 1, 3}, {3, 4, 0, 3}, {4, 9, 1, 3}};
  EXPECT_EQ(read_all(tokens, {.sequence_length = 2, .by_document = true}).scored, expected);
}

TEST_F(Measurement, WindowsMayEachBeOpenedByAToken) {
  const fs::path folder = write_text({5, 6, 7, 8, 3, 4}, {1, 2, 1, 1, 4, 1}, {4, 2}, 10);
  const MeasuredTokens plain = open_tokenized_text(folder, 10);
  EXPECT_FALSE(plain.beginning.has_value());
  Json json = read_json(folder / "tokens.json");
  json["bos"] = "every-window";
  json["beginning"] = 9;
  write_file_atomic(folder / "tokens.json", json.dump());
  const MeasuredTokens tokens = open_tokenized_text(folder, 10);
  const Read read = read_all(tokens, {.sequence_length = 3});
  const std::vector<Scored> expected = {{9, 5, 0, 0}, {5, 6, 1, 0}, {6, 7, 2, 0},
                                        {9, 8, 0, 0}, {9, 3, 0, 1}, {3, 4, 1, 1}};
  EXPECT_EQ(read.scored, expected);
  EXPECT_EQ(read.bytes, 10);
  EXPECT_EQ(WindowReader(tokens, {.sequence_length = 3}).most_targets(), 6);
  EXPECT_EQ(read_all(tokens, {.sequence_length = 3, .max_tokens = 4}).scored.size(), 4U);
  EXPECT_THROW(open_tokenized_text(folder, 9), Error);

  json["bos"] = "first";  // which then stands among the ids
  write_file_atomic(folder / "tokens.json", json.dump());
  EXPECT_EQ(read_all(open_tokenized_text(folder, 10), {.sequence_length = 3}).scored,
            read_all(plain, {.sequence_length = 3}).scored);
}

TEST_F(Measurement, WindowsAcrossDocumentsStillKnowWhoseTheTargetIs) {
  const MeasuredTokens tokens = open_measured_tokens(write_ids<std::uint16_t>("ids.bin", {5, 9, 7, 8, 9, 1}), 10, 9);
  const std::vector<Scored> expected = {{5, 9, 0, 0}, {9, 7, 1, 1}, {7, 8, 2, 1}, {8, 9, 0, 1}, {9, 1, 1, 2}};
  EXPECT_EQ(read_all(tokens, {.sequence_length = 3}).scored, expected);
}

TEST_F(Measurement, OpensIdsAsTrainingDoes) {
  const Ids ids = {5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3};
  const auto wide = write_ids<std::uint32_t>("wide.bin", ids);
  EXPECT_THROW(open_measured_tokens(wide, 10, {}), Error);  // every second id would be 0
  EXPECT_EQ(open_measured_tokens(wide, 10, {}, TokenType::kUint32).ids.size(), 11);
  EXPECT_EQ(open_measured_tokens(wide, 151936, {}).ids.size(), 11);
  const auto narrow = write_ids<std::uint16_t>("narrow.bin", ids);
  EXPECT_THROW(open_measured_tokens(narrow, 151936, {}), Error);
  EXPECT_EQ(open_measured_tokens(narrow, 151936, {}, TokenType::kUint16).ids.size(), 11);
}

TEST_F(Measurement, ReadsASidecarAsStrictlyAsTrainingDoes) {
  const auto file = write_ids<std::uint32_t>("ids.bin", {5, 6, 7, 8});
  const auto split = [](const char* name) {
    return Json{{"file", name}, {"tokens", 4}, {"bytes", 12}, {"documents", 1}, {"sha256", std::string(64, '0')}};
  };
  Json sidecar = {
      {"format", "lmhead-dataset"}, {"version", 1},
      {"vocab_size", 10},           {"token_type", "uint32"},
      {"tokenizer", nullptr},       {"tokenizer_hash", "bytes"},
      {"end_of_document", 9},       {"splits", {{"train", split("ids.bin")}, {"validation", split("other.bin")}}},
      {"content_hash", "content"}};
  write_file_atomic(folder_ / "dataset.json", sidecar.dump());
  const MeasuredTokens tokens = open_measured_tokens(file, 100, 0);
  EXPECT_EQ(tokens.ids.size(), 4);
  EXPECT_EQ(tokens.end_of_document, 9);
  EXPECT_EQ(tokens.bytes_per_token, 3);
  EXPECT_THROW(open_measured_tokens(file, 100, 0, TokenType::kUint16), Error);
  sidecar["splits"]["train"]["tokens"] = 5;
  write_file_atomic(folder_ / "dataset.json", sidecar.dump());
  EXPECT_THROW(open_measured_tokens(file, 100, 0), Error);
  sidecar.erase("content_hash");
  write_file_atomic(folder_ / "dataset.json", sidecar.dump());
  EXPECT_THROW(open_measured_tokens(write_ids<std::uint16_t>("elsewhere.bin", {1, 2}), 100, 0), Error);
}

TEST_F(Measurement, MostTokensAreTheFirstOnes) {
  const MeasuredTokens tokens =
      open_measured_tokens(write_ids<std::uint16_t>("ids.bin", {1, 2, 3, 4, 5, 6, 7}), 10, {});
  const std::vector<Scored> expected = {{1, 2, 0, -1}, {2, 3, 1, -1}, {3, 4, 2, -1}, {4, 5, 0, -1}};
  EXPECT_EQ(read_all(tokens, {.sequence_length = 3, .max_tokens = 4}).scored, expected);
}

TEST_F(Measurement, BytesOfATextAreThoseOfItsTargets) {
  // The first token of each document is no target: 3 and 2 bytes are not counted.
  const auto folder = write_text({1, 2, 3, 4, 5}, {3, 10, 20, 2, 40}, {3, 2}, 6);
  const Read read = read_all(open_tokenized_text(folder, 6), {.sequence_length = 8});
  EXPECT_EQ(read.bytes, 10 + 20 + 40);
  EXPECT_EQ(read.scored, (std::vector<Scored>{{1, 2, 0, 0}, {2, 3, 1, 0}, {4, 5, 0, 1}}));
}

TEST_F(Measurement, ABatchStaysWithinItsTokens) {
  Ids ids(400, 1), documents;
  for (std::int64_t left = 400, size = 1; left > 0; size = size % 37 + 3) {
    documents.push_back(std::min(size, left));
    left -= documents.back();
  }
  const MeasuredTokens tokens = open_tokenized_text(write_text(ids, ids, documents, 2), 2);
  const Read read = read_all(tokens, {.sequence_length = 16, .batch_tokens = 64});
  EXPECT_LE(read.widest, 64);
  EXPECT_GT(read.batches, 5);
}

/// The message of the error that `act` throws.
template <class Act>
std::string message_of(const Act& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_F(Measurement, IdsAreCheckedAndNotVocabularies) {
  EXPECT_EQ(read_all(open_tokenized_text(write_text({1, 255}, {1, 1}, {2}, 300), 256), {}).scored.size(), 1);
  const auto folder = write_text({1, 256}, {1, 1}, {2}, 300);
  const std::string message = message_of([&] { open_tokenized_text(folder, 256); });
  EXPECT_NE(message.find("below the head's 256, got id 256 of some/tokenizer.json"), message.npos) << message;
}

TEST_F(Measurement, FeaturesOfAnotherProgramNameWhatIsWrongWithThem) {
  const at::Tensor hidden = at::randn({4, 3}), weight = at::randn({7, 3});
  const auto load = [&](const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
    const fs::path file = write_features(tensors);
    return message_of([&] { load_model(file); });
  };
  const at::Tensor targets = at::tensor(Ids{0, 6, -100, 3});
  EXPECT_EQ(load({{"hidden", hidden}, {"weight", weight}, {"targets", targets}}), "");
  EXPECT_NE(load({{"hidden", hidden}, {"weight", weight}}).find("must hold targets"), std::string::npos);
  EXPECT_NE(load({{"hidden", hidden}, {"weight", weight}, {"targets", at::tensor(Ids{0, 7, 1, 2})}})
                .find("targets must be ids below 7 (or -100 to leave a row out), got 7 in row 1"),
            std::string::npos);
  EXPECT_NE(load({{"hidden", at::randn({4, 2})}, {"weight", weight}, {"targets", targets}}).find("hidden must be"),
            std::string::npos);
  weight[2][1].fill_(std::numeric_limits<double>::quiet_NaN());
  EXPECT_NE(load({{"hidden", hidden}, {"weight", weight}, {"targets", targets}}).find("weight must be finite"),
            std::string::npos);
}

TEST_F(Measurement, NothingIsDestroyedWhereTheHeadSpansTheVocabulary) {
  const fs::path file = write_features(
      {{"hidden", at::randn({50, 12})}, {"weight", at::randn({9, 12})}, {"targets", at::arange(50, at::kLong) % 9}});
  const Json result = measure_model(load_model(file), nullptr, {});
  EXPECT_EQ(result["gradient_retention"]["destroyed_ratio"], 0.0);
  EXPECT_EQ(result["gradient_retention"]["null_destroyed_ratio"], 0.0);
  EXPECT_EQ(result["tokens"], 50);
}

/// z = -|h - w_x|: no linear map.
class DistanceHead : public LmHead {
 public:
  explicit DistanceHead(at::Tensor weight) : LmHead(weight.size(1), weight.size(0)), weight_(std::move(weight)) {}

 private:
  at::Tensor compute_logits(const HeadInput& input) const override {
    return -(input.hidden.unsqueeze(1) - weight_).norm(2, -1);
  }
  at::Tensor weight_;
};

TEST(LoadedModel, AHeadThatIsNoLinearMapIsMeasuredAsFarAsThatGoes) {
  const at::Tensor weight = at::randn({9, 4}), hidden = at::randn({50, 4}), targets = at::arange(50, at::kLong) % 9;
  const LoadedModel model{
      .kind = ModelKind::kFeatures,
      .name = "distance",
      .head = std::make_shared<DistanceHead>(weight),
      .features = {.hidden = [&](std::int64_t begin, std::int64_t count) { return hidden.narrow(0, begin, count); },
                   .targets = targets}};
  const Json result = measure_model(model, nullptr, {});
  const double loss = plain_cross_entropy(model.head->logits({hidden, {}, {}}), targets).item<double>();
  EXPECT_NEAR(result["quality"]["loss"].get<double>(), loss, 1e-5);
  EXPECT_EQ(result["left_out"]["diagnostics"].size(), 4);
  EXPECT_EQ(result["vocab_size"], 9);
  EXPECT_THROW(measure_model(model, nullptr, {.float64 = true}), Error);
}

/// The reference's cases as one batch of windows each: share of the squared logit gradient outside col(W), by token.
struct Fractions {
  std::vector<double> got, expected;
};
Fractions fractions_of(const char* model_name, bool float64) {
  at::NoGradGuard no_grad;
  const LoadedModel model = load_pretrained(kShared / "models" / model_name);
  LinearMap map = *model.head->linear_map();
  if (float64) map.weight = map.weight.to(at::kDouble);
  const HeadSpace space(map);
  const auto json = nlohmann::json::parse(read_file(kShared / "reference/TinyStories-656K.float64.json"));
  Fractions fractions;
  for (const auto& one : json["cases"]) {
    const at::Tensor ids = at::tensor(one["ids"].get<Ids>());
    const std::int64_t count = ids.size(0) - 1;
    const at::Tensor hidden = model.decoder->forward(ids.narrow(0, 0, count).unsqueeze(0));
    const TokenEnergies energies = space.energies(float64 ? hidden.to(at::kDouble) : hidden, ids.narrow(0, 1, count));
    const at::Tensor outside = (1 - energies.retained / energies.total).contiguous();
    for (std::int64_t at = 0; at < count; ++at) fractions.got.push_back(outside[at].item<double>());
    for (const auto& value : one["fraction_of_sq_logit_grad_in_left_nullspace_of_W"])
      fractions.expected.push_back(value.get<double>());
  }
  return fractions;
}

TEST_F(Measurement, GoesOnWhereItWasInterrupted) {
  const fs::path folder = kShared / "models/TinyStories-656K";
  if (!fs::exists(folder)) GTEST_SKIP() << "no shared data";
  Ids ids(600);
  for (std::int64_t at = 0; at < 600; ++at) ids[at] = at * at % 2000;
  const fs::path file = write_ids<std::uint16_t>("ids.bin", ids), kept = folder_ / "kept";
  const LoadedModel model = open_model(folder, at::kFloat, c10::Device(c10::DeviceType::CPU));
  const MeasuredTokens tokens = open_measured_tokens(file, model.head->vocab_size(), {});
  MeasurementOptions options{.diagnostics = {"quality", "gradient_retention"}};
  const Json want = measure_model(model, &tokens, options);
  EXPECT_EQ(measure_model(load_model(folder), &tokens, options), want);

  const auto measured = [&](std::int64_t last_layer) {
    std::vector<std::int64_t> layers;
    options.kept = std::make_shared<KeptFeatures>(kept, folder, at::kFloat, 0);
    const Json got = measure_model(model, &tokens, options, [&](const MeasurementState& state) {
      if (!state.doing.empty()) return;
      layers.push_back(state.layer);
      if (state.layer > last_layer) throw Error("interrupted");
    });
    EXPECT_EQ(got, want);
    return layers;
  };
  EXPECT_THROW(measured(1), Error);
  EXPECT_FALSE(fs::is_empty(kept));
  EXPECT_EQ(measured(2), (std::vector<std::int64_t>{2}));
  EXPECT_FALSE(fs::exists(kept));
  EXPECT_EQ(measured(2), (std::vector<std::int64_t>{1, 2}));

  // Of other ids, and in another precision, nothing is found.
  EXPECT_THROW(measured(1), Error);
  KeptFeatures same(kept, folder, at::kFloat), other(kept, folder, at::kBFloat16);
  const at::Tensor inputs = at::tensor(ids).narrow(0, 0, 599).view({1, 599});
  EXPECT_FALSE(other.read({inputs.narrow(1, 0, 512), inputs.narrow(1, 512, 87)}));
  EXPECT_FALSE(same.read({inputs + 1}));
}

TEST(PublishedFigures, OfEachTokenAreThoseOfTheFloat64Reference) {
  if (!fs::exists(kShared / "reference")) GTEST_SKIP() << "no shared data";
  for (const char* name : {"TinyStories-656K", "TinyStories-656K-bf16"})
    for (const bool float64 : {false, true}) {
      const Fractions fractions = fractions_of(name, float64);
      ASSERT_EQ(fractions.got.size(), fractions.expected.size());
      double worst = 0, mean = 0;
      for (std::size_t at = 0; at < fractions.got.size(); ++at) {
        worst = std::max(worst, std::abs(fractions.got[at] - fractions.expected[at]));
        mean += fractions.got[at] / double(fractions.got.size());
      }
      EXPECT_LT(worst, 1e-6) << name << (float64 ? " float64" : " float32");
      EXPECT_GT(mean, 0.947);
      EXPECT_LT(mean, 0.952);
    }
}

}  // namespace
}  // namespace lmhead
