#include "lmhead/study/statistics_json.h"

namespace lmhead {

Json number_or_null(const std::optional<double>& value) { return value ? number_or_null(*value) : Json(nullptr); }

Json interval_or_null(const std::optional<Interval>& ends) {
  return ends ? Json{number_or_null(ends->low), number_or_null(ends->high)} : Json(nullptr);
}

}  // namespace lmhead
