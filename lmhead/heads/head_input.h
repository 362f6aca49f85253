// What a head is given at every call: in training, validation, measuring and sampling alike.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "lmhead/base/random.h"

namespace lmhead {

/// Where a pass stands in a run of training.
struct StepContext {
  std::uint64_t seed = 0;  // of everything that is drawn
  std::int64_t step = 0;   // counted from 1; 0: no step of training
  std::int64_t steps = 0;  // of the whole run
  std::int64_t part = 0;   // of the step's micro-batches
  /// A stream of this micro-batch alone.
  RandomStream stream(std::string_view name) const;
};

/// What a head must be given beside features; those who call it ask first.
struct HeadNeeds {
  bool tokens = false;               // input ids, and with them the features of the whole context
  std::vector<std::int64_t> layers;  // blocks, counted from 0, whose features it takes
  std::int64_t targets_ahead = 0;    // further targets of a token that training looks at; needs `tokens`
  bool random = false;               // training draws, so that it must be told the step
  bool batch_targets = false;        // training looks at all targets of the micro-batch, those of other processes too
};

/// One pass over B sequences of T tokens. Features are rows in the order of the tokens, N = B T of them.
struct HeadInput {
  at::Tensor hidden;               // [N, D] after the final norm
  at::Tensor tokens;               // [B, T] int64 input ids; undefined where no head asks
  std::vector<at::Tensor> layers;  // [N, D] after each of the blocks asked for, before the final norm
  at::Tensor documents;            // [B, T] int64, which document a row's target is of; undefined: one a sequence
  at::Tensor rows;                 // [M] int64, those of the N rows that are asked for; undefined: all of them
  at::Tensor batch_targets;  // [K] int64, of the micro-batch in all processes; undefined: the targets given are all
  StepContext step = {};

  /// How many rows are asked for.
  std::int64_t asked() const { return rows.defined() ? rows.size(0) : hidden.size(0); }
  /// The rows that are asked for of something that has one entry [N, ...] for each.
  at::Tensor select(const at::Tensor& all) const;
  /// The same pass with `count` of the rows that are asked for, from the `first` on.
  HeadInput narrow(std::int64_t first, std::int64_t count) const;
};

/// Which document each token's successor is of, [B, T], counted from 0 in every sequence: the token that ends a
/// document already stands before the next one. Undefined where no token ends documents.
at::Tensor documents_of(const at::Tensor& tokens, std::optional<std::int64_t> end_of_document);

/// What stands `ahead` places behind each of `targets` [N] in its sequence of `tokens` [B, T], and -100 beyond its end.
at::Tensor targets_ahead(const at::Tensor& targets, const at::Tensor& tokens, std::int64_t ahead);

}  // namespace lmhead
