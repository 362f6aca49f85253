#include "lmhead/base/options.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lmhead/base/error.h"

namespace lmhead {
namespace {

struct Group {
  std::string pattern;
  std::optional<double> learning_rate;
  void visit_fields(FieldVisitor& visitor) {
    visitor.field("pattern", pattern, "which parameters");
    visitor.field("learning_rate", learning_rate, "their rate", above(0));
  }
};
struct Inner {
  std::int64_t steps = 10;
  std::string type = "adamw";
  void visit_fields(FieldVisitor& visitor) {
    visitor.field("steps", steps, "how many", at_least(1));
    visitor.field("type", type, "which", {"adamw", "sgd"});
  }
};
struct Outer {
  double learning_rate = 0.5;
  Inner inner;
  std::vector<Group> groups;
  void visit_fields(FieldVisitor& visitor) {
    visitor.field("learning_rate", learning_rate, "rate", above(0));
    visitor.group("inner", inner, "inner options");
    visitor.list("groups", groups, "groups");
  }
};

std::string error_of(const char* text) {
  try {
    read_options<Outer>(Json::parse(text));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Options, RoundTripKeepsEveryField) {
  const Json json = Json::parse(
      R"({"learning_rate":0.25,"inner":{"steps":3,"type":"sgd"},"groups":[{"pattern":"a","learning_rate":null}]})");
  EXPECT_EQ(write_options(read_options<Outer>(json)), json);
}

TEST(Options, UnknownKeyNamesTheNearest) {
  EXPECT_EQ(error_of(R"({"inner":{"stepz":3}})"),
            "[config] inner.stepz must be a known key, did you mean inner.steps?");
  EXPECT_EQ(error_of(R"({"groups":[{"patern":"a"}]})"),
            "[config] groups.0.patern must be a known key, did you mean groups.0.pattern?");
}

TEST(Options, WrongTypesAndRangesSayWhatMustHold) {
  EXPECT_EQ(error_of(R"({"learning_rate":0})"), "[config] learning_rate must be a number above 0, got 0");
  EXPECT_EQ(error_of(R"({"learning_rate":"big"})"), "[config] learning_rate must be a number above 0, got \"big\"");
  EXPECT_EQ(error_of(R"({"inner":{"steps":1.5}})"), "[config] inner.steps must be an integer of at least 1, got 1.5");
  EXPECT_EQ(error_of(R"({"inner":{"steps":1e300}})"),
            "[config] inner.steps must be an integer of at least 1, got 1e+300");
  EXPECT_EQ(error_of(R"({"inner":{"steps":18446744073709551615}})"),
            "[config] inner.steps must be an integer of at least 1, got 18446744073709551615");
  EXPECT_EQ(error_of(R"({"inner":{"type":"adam"}})"), "[config] inner.type must be one of adamw, sgd, got \"adam\"");
  EXPECT_EQ(error_of(R"({"inner":3})"), "[config] inner must be an object, got 3");
  EXPECT_EQ(error_of(R"([])"), "[config] the whole must be an object, got []");
}

TEST(Options, OverridesReachNestedKeysAndListItems) {
  Json json = Json::parse(R"({"groups":[{"pattern":"a"}]})");
  apply_override(json, "inner.steps=7");
  apply_override(json, "inner.type=sgd");
  apply_override(json, "groups.0.learning_rate=1e-3");
  const auto options = read_options<Outer>(json);
  EXPECT_EQ(options.inner.steps, 7);
  EXPECT_EQ(options.inner.type, "sgd");
  EXPECT_EQ(options.groups.at(0).learning_rate, 1e-3);
  EXPECT_THROW(apply_override(json, "inner.steps"), Error);
  EXPECT_THROW(apply_override(json, "groups.1.pattern=b"), Error);
  EXPECT_THROW(apply_override(json, "inner..steps=1"), Error);
  EXPECT_THROW(apply_override(json, "inner.type=\xff"), Error);  // it could not be written again
}

TEST(Options, DescriptionsCoverEveryKeyWithItsPath) {
  std::vector<std::string> paths;
  for (const FieldDescription& field : describe_options<Outer>()) paths.push_back(field.path);
  EXPECT_EQ(paths, (std::vector<std::string>{"learning_rate", "inner.steps", "inner.type", "groups", "groups[].pattern",
                                             "groups[].learning_rate"}));
}

}  // namespace
}  // namespace lmhead
