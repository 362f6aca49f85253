// JSON out of files of strangers, fit for a terminal.
#pragma once

#include <string>

#include "lmhead/base/options.h"

namespace lmhead {

/// The same with `printable_text` of every text and key.
Json printable(const Json& json);

}  // namespace lmhead
