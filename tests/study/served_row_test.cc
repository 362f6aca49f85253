// What rows say to studies that ask for other outcomes than they were made for.
#include "lmhead/study/served_row.h"

#include "lmhead/study/run_identity.h"
#include "tests/study/study_fixtures.h"

namespace lmhead {
namespace {

using ServedRow = StudyTest;

RunRow row_of_loss() {
  RunRow row{.study = "tiny", .outcome_path = kLossOutcome, .outcome = 2.5};
  row.final = {{"loss", 2.5}, {"top1_accuracy", 0.25}};
  row.curve = {.step = {3, 6}, .tokens = {9, 18}, .wall_seconds = {1.0, 2.0}, .loss = {3.0, 2.5}};
  row.keep = Json::object();
  return row;
}

RunRow row_of_accuracy() {
  RunRow row = row_of_loss();
  row.outcome_path = "validation.top1_accuracy";
  row.outcome = 0.25;
  row.curve.outcome = {0.125, 0.25};
  return row;
}

TEST_F(ServedRow, IsWhatItIsWhateverItsStudyAsksForNow) {
  Json json = study_json();
  const Study loss = read_study(json, {});
  json["outcome"] = "validation.top1_accuracy";
  const Study accuracy = read_study(json, {});
  json["outcome"] = "validation.bits_per_byte";
  const Study bits = read_study(json, {});

  // The same figure: the row as it is.
  EXPECT_EQ(served_row(row_of_loss(), loss)->curve.loss.size(), 2u);
  EXPECT_EQ(served_row(row_of_accuracy(), accuracy)->curve.outcome.size(), 2u);
  // Another one is read from the last validation; a curve of it there is of the loss alone.
  const auto reread = served_row(row_of_loss(), accuracy);
  EXPECT_EQ(reread->outcome, 0.25);
  EXPECT_EQ(reread->outcome_path, "validation.top1_accuracy");
  EXPECT_TRUE(reread->curve.step.empty());
  EXPECT_EQ(served_row(row_of_accuracy(), loss)->outcome, 2.5);
  EXPECT_TRUE(served_row(row_of_accuracy(), loss)->curve.outcome.empty());
  EXPECT_EQ(served_row(row_of_accuracy(), loss)->curve.loss.size(), 2u);
  EXPECT_FALSE(served_row(row_of_loss(), bits).has_value());
}

TEST_F(ServedRow, OfAnotherStudyHoldsThisVeryOutcomeAndWhatIsKept) {
  Json json = study_json();
  json["name"] = "another";
  const Study loss = read_study(json, {});
  EXPECT_TRUE(served_row(row_of_loss(), loss).has_value());
  EXPECT_FALSE(served_row(row_of_accuracy(), loss).has_value());
  json["keep"] = {"gradient_retention"};
  EXPECT_FALSE(served_row(row_of_loss(), read_study(json, {})).has_value());
}

TEST_F(ServedRow, FromBeforeRowsNamedTheirOutcomeShowsItByItsNumber) {
  RunRow loss = row_of_loss(), accuracy = row_of_accuracy();
  loss.outcome_path.clear();
  accuracy.outcome_path.clear();
  EXPECT_TRUE(holds_outcome(loss, kLossOutcome));
  EXPECT_FALSE(holds_outcome(loss, "validation.top1_accuracy"));
  EXPECT_TRUE(holds_outcome(accuracy, "validation.top1_accuracy"));
  EXPECT_FALSE(holds_outcome(accuracy, kLossOutcome));
  accuracy.outcome = 0.5;  // of another figure
  EXPECT_FALSE(holds_outcome(accuracy, "validation.top1_accuracy"));
  RunRow speed = row_of_loss();
  speed.outcome_path.clear();
  speed.outcome = speed.tokens_per_second = 80;
  speed.curve.outcome = {std::nullopt, std::nullopt};
  EXPECT_FALSE(holds_outcome(speed, kLossOutcome));
  EXPECT_FALSE(holds_outcome(speed, "validation.top1_accuracy"));
}

TEST_F(ServedRow, OfARunThatDivergedDidSoByAnyMeasure) {
  RunRow row = row_of_loss();
  row.outcome.reset();
  row.diverged = true;
  row.study = "another";
  Json json = study_json();
  json["outcome"] = "validation.top1_accuracy";
  const auto served = served_row(row, read_study(json, {}));
  ASSERT_TRUE(served.has_value());
  EXPECT_TRUE(served->diverged);
  EXPECT_TRUE(served->curve.loss.empty());  // it is not of the accuracy
}

}  // namespace
}  // namespace lmhead
