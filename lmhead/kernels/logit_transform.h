// The elementwise map from a head's products to its logits, as the row operations of every instruction set see it:
// plain numbers only.
#pragma once

namespace lmhead {

/// A sigma((z + b) / c), which lies between 0 and A.
struct SigmoidCap {
  double height = 0;            // A; 0: none
  double shift = 0, width = 1;  // b, c
};

/// logits = f(scale * product), where f is one of the three maps or leaves its argument as it is.
struct LogitTransform {
  double scale = 1;             // muP: base width / width
  double softcap = 0;           // c of c tanh(z / c); 0: none
  SigmoidCap sigmoid_cap = {};  // the asymmetric cap
  bool sigsoftmax = false;      // 2 z - softplus(z), whose softmax is proportional to e^z sigma(z) (arXiv 1805.10829)
};

/// Whether the map is anything but the identity, and whether f is.
bool changes_logits(const LogitTransform& transform);
bool bends_logits(const LogitTransform& transform);

/// Throws `[who] ...` unless every number is in its range and at most one map is chosen.
void check_logit_transform(const LogitTransform& transform, const char* who);

}  // namespace lmhead
