// A learned map of logits, as the row operations of every instruction set see it: plain numbers only.
#pragma once

namespace lmhead {

/// An increasing map in place of those of LogitTransform: linear between knots at multiples of `step`, and 0 at 0.
/// Piece j reaches from (j - count / 2) step to (j + 1 - count / 2) step, the first and the last go on for ever.
struct LinearPieces {
  static constexpr int kMost = 32;
  int count = 0;  // even; 0: there is no such map
  double step = 1;
  double slopes[kMost] = {};  // positive
};

}  // namespace lmhead
