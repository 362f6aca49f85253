#include "lmhead/kernels/logit_transform.h"

#include <cmath>

#include "lmhead/base/error.h"

namespace lmhead {

bool bends_logits(const LogitTransform& transform) {
  return transform.softcap > 0 || transform.sigmoid_cap.height != 0 || transform.sigsoftmax;
}
bool changes_logits(const LogitTransform& transform) { return transform.scale != 1 || bends_logits(transform); }

void check_logit_transform(const LogitTransform& transform, const char* who) {
  const SigmoidCap& cap = transform.sigmoid_cap;
  require(std::isfinite(transform.scale), who, "logit_scale must be finite, got ", transform.scale);
  require(transform.softcap >= 0 && std::isfinite(transform.softcap), who, "logit_softcap must be at least 0, got ",
          transform.softcap);
  require(cap.height >= 0 && std::isfinite(cap.height) && cap.width > 0 && std::isfinite(cap.width) &&
              std::isfinite(cap.shift),
          who, "sigmoid_cap must have a height of at least 0 and a positive width, got ", cap.height, ", ", cap.shift,
          ", ", cap.width);
  require((transform.softcap > 0) + (cap.height > 0) + transform.sigsoftmax <= 1, who,
          "only one of logit_softcap, sigmoid_cap and sigsoftmax must be chosen");
}

}  // namespace lmhead
