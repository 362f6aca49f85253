// Finding the word that was meant.
#pragma once

#include <string>
#include <vector>

namespace lmhead {

/// The known word with the smallest edit distance to `word`; empty when none is near enough to be meant.
std::string nearest_word(const std::string& word, const std::vector<std::string>& known);

}  // namespace lmhead
