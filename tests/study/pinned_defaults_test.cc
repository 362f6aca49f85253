// Every key has a pinned default, and no default moves without a word: names of runs hang on both.
#include "lmhead/study/pinned_defaults.h"

#include <gtest/gtest.h>

#include <set>

#include "lmhead/heads/lm_head.h"
#include "lmhead/run/run.h"
#include "lmhead/study/run_identity.h"

namespace lmhead {
namespace {

/// Keys whose default is another now than when it was pinned, and is meant to be.
const std::set<std::string> kChangedSince = {};

/// Keys of items of lists that rows have written out, default or not, since the first of them.
const std::set<std::string> kWrittenOut = {"optimizer.groups[].pattern", "optimizer.groups[].learning_rate",
                                           "optimizer.groups[].learning_rate_scale", "optimizer.groups[].weight_decay"};

void compare(const std::string& path, const Json& today, const Json& pinned) {
  for (const auto& item : today.items()) {
    const std::string key = path + item.key();
    const auto other = pinned.find(item.key());
    if (other == pinned.end()) {
      ADD_FAILURE() << key << " has no pinned default. Add it to lmhead/study/pinned_defaults.cc with the value that "
                    << "leaves figures as they were before there was the key, which is mostly its default, "
                    << item.value().dump() << ": then the rows that are there keep their names.";
    } else if (item.value().is_object()) {
      compare(key + ".", item.value(), *other);
    } else if (item.value() != *other && !kChangedSince.contains(key)) {
      ADD_FAILURE() << "the default of " << key << " is " << item.value().dump() << " and was " << other->dump()
                    << ". Rows that were made with the old one stay that: leave lmhead/study/pinned_defaults.cc as it "
                    << "is, let the studies in studies/ say the old value, and add the key to kChangedSince here.";
    }
  }
}

TEST(PinnedDefaults, AreThereForEveryKeyAndAreTodays) {
  for (const HeadKind& kind : head_kinds()) {
    SCOPED_TRACE(kind.type);
    const Json today = complete_configuration({{"head", {{"type", kind.type}}}});
    Json pinned = pinned_defaults(kind.type);
    pinned["head"]["type"] = kind.type;
    compare("", today, pinned);
  }
}

TEST(PinnedDefaults, AreThereForKeysOfListItemsThatAreYoungerThanRows) {
  const Json pinned = pinned_defaults("linear");
  for (const FieldDescription& field : describe_options<RunConfiguration>()) {
    const std::size_t end = field.path.find("[].");
    if (end == std::string::npos || kWrittenOut.contains(field.path)) continue;
    const Json* items = find_value(pinned, field.path.substr(0, end + 2));
    EXPECT_TRUE(items && items->contains(field.path.substr(end + 3)))
        << field.path << " has no pinned default: add it to lmhead/study/pinned_defaults.cc under the list's name and "
        << "[], with the value that leaves figures as they were before there was the key.";
  }
}

TEST(PinnedDefaults, TellWhatIsInARunsName) {
  Json changed = complete_configuration(Json::object());
  const std::string name = configuration_hash(changed);
  // Were 0.1 to become the default of clip_norm, a run that leaves it out would have another name than before.
  changed["training"]["clip_norm"] = 0.1;
  EXPECT_EQ(settings_of(changed)["training"]["clip_norm"], 0.1);
  EXPECT_NE(configuration_hash(changed), name);
}

}  // namespace
}  // namespace lmhead
