// Rows as lines of JSON: what one must be.
#include "lmhead/study/run_row.h"

#include <gtest/gtest.h>

#include "lmhead/base/error.h"
#include "lmhead/base/files.h"
#include "lmhead/study/run_identity.h"
#include "tests/data/data_fixtures.h"

namespace lmhead {
namespace {

Json whole_row() {
  const Json settings = {{"head", {{"type", "linear"}}}};
  return {
      {"study", "tiny"},
      {"arm", "full"},
      {"phase", "search"},
      {"seed", 3},
      {"grid", Json::object()},
      {"searched", {{"optimizer.learning_rate", 0.25}}},
      {"configuration", hash_of_values(settings)},
      {"dataset", "content"},
      {"settings", settings},
      {"outcome_path", "validation.loss"},
      {"outcome", 2.5},
      {"diverged", false},
      {"error", ""},
      {"final", {{"loss", 2.5}}},
      {"curve", {{"step", {3}}, {"tokens", {9}}, {"wall_seconds", {1.5}}, {"loss", {2.5}}, {"outcome", Json::array()}}},
      {"observations", {{"a.b", 1}}},
      {"tokens", 9},
      {"wall_seconds", 1.5},
      {"measure_seconds", 0.0},
      {"tokens_per_second", nullptr},
      {"flops", 1e12},
      {"threads", 1},
      {"version", "0.1.0"},
      {"trained_by", Json::array({{{"commit", "abc"},
                                   {"processor", "a processor"},
                                   {"instructions", "avx2"},
                                   {"vector_level", "AVX2"},
                                   {"torch_version", "2.13.0"},
                                   {"threads", nullptr}}})},
      {"keep", Json::object()},
      {"observation_curves", Json::object()}};
}

TEST(RunRow, RoundTrips) { EXPECT_EQ(write_options(read_row(whole_row(), "row")), whole_row()); }

TEST(RunRow, IsRefusedInOneLineWhereItIsNone) {
  const auto error_with = [](const char* key, const Json& value) {
    Json row = whole_row();
    row[key] = value;
    return error_of([&] { read_row(row, "rows.jsonl:7"); });
  };
  EXPECT_EQ(error_with("diverged", "no"), "[rows.jsonl:7] diverged must be true or false, got \"no\"");
  EXPECT_EQ(error_with("outcome", "2.5"), "[rows.jsonl:7] outcome must be null or a number, got \"2.5\"");
  EXPECT_EQ(error_with("outcome", nullptr),
            "[rows.jsonl:7] outcome must be null where diverged is true and nowhere else");
  EXPECT_EQ(error_with("outcome", 2.25),
            "[rows.jsonl:7] outcome must be what final has at validation.loss, got another number");
  EXPECT_EQ(error_with("dataset", 1), "[rows.jsonl:7] dataset must be null or a text, got 1");
  EXPECT_EQ(error_with("final", 1), "[rows.jsonl:7] final must be an object, got 1");
  EXPECT_EQ(error_with("threads", 1e300),
            "[rows.jsonl:7] threads must be null or an integer of at least 1, got 1e+300");
  EXPECT_NE(error_with("settings", Json::object()).find("configuration must be the hash of settings"),
            std::string::npos);
  EXPECT_NE(error_with("curve", {{"step", {1}}}).find("curve must hold lists of equal length"), std::string::npos);
  EXPECT_NE(error_with("machin", 1).find("machin must be a known key"), std::string::npos);
  for (const char* key : {"study", "arm", "seed", "configuration", "settings", "outcome", "diverged"}) {
    Json row = whole_row();
    row.erase(key);
    EXPECT_EQ(error_of([&] { read_row(row, "r"); }), std::string("[r] ") + key + " must be there, got nothing");
  }
  EXPECT_EQ(error_of([&] { read_row(Json::array(), "r"); }), "[r] the whole must be an object, got []");
}

/// Whatever a member is replaced by, the row is read or refused with our own words.
TEST(RunRow, TakesNoHarmFromAnyValueAnywhere) {
  const Json values = {nullptr, true, -1, 1e308, "text", Json::array(), Json::object(), {1, "x"}, {{"step", 3}}};
  const Json whole = whole_row();
  for (const auto& item : whole.items())
    for (const Json& value : values) {
      Json row = whole;
      row[item.key()] = value;
      const std::string error = error_of([&] { read_row(row, "r"); });
      EXPECT_TRUE(error == "no error" || error.starts_with("[r] ")) << error;
    }
}

}  // namespace
}  // namespace lmhead
