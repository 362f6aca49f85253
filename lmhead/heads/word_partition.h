// How words are put into classes: by how often they occur, by their bytes, by what a trained matrix says.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lmhead/heads/lm_head.h"

namespace lmhead {

/// An order of all words, cut into classes.
struct WordPartition {
  std::vector<std::int64_t> order;  // [V] ids, those of a class together
  std::vector<std::int64_t> sizes;  // [C] how many are each class's, at least 1
};

/// Lengths of `classes` runs of `masses` whose sums are as equal as runs allow: each takes its share of what is left,
/// and one word at least. Throws unless there are 1 to as many classes as masses.
std::vector<std::int64_t> cut_by_mass(const std::vector<double>& masses, std::int64_t classes);

/// How often each id occurs in the training data; where that cannot be counted all count alike.
std::vector<double> counts_of(const HeadContext& context);
/// Ids by falling count, ties by id.
std::vector<std::int64_t> order_by_count(const std::vector<double>& counts);

/// The names of the ways to put words into classes, what they do, and one of them.
std::vector<std::string> ways_to_partition();
const char* ways_to_partition_doc();
WordPartition partition_words(const std::string& by, std::int64_t classes, const HeadContext& context);

/// Classes of rows of `matrix` [V, D] that lie together, by k-means from seeds of k-means++ (Arthur & Vassilvitskii
/// 2007); the class of most mass first, in it words by falling count.
WordPartition cluster_words(const at::Tensor& matrix, std::int64_t classes, const HeadContext& context);

/// For each id that of the longest other word whose bytes its own begin with, itself where there is none. Throws where
/// the bytes of words are not known.
std::vector<std::int64_t> prefixes_of_words(const HeadContext& context);

/// Fills a constant with whole numbers, asked for where it is filled and not before.
Initializer whole_numbers(const std::function<std::vector<std::int64_t>()>& numbers);

/// The two constants of a partition that is made once and only where parameters are fresh.
struct PartitionConstants {
  ParameterPtr order, sizes;
};
PartitionConstants partition_constants(const HeadContext& context, std::int64_t classes,
                                       const std::function<WordPartition()>& make);

}  // namespace lmhead
