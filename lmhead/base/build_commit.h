// Which sources this library was built from.
#pragma once

namespace lmhead {

/// The commit as `git describe --always --dirty` has it; "unknown" where the sources were no repository of their own.
const char* build_commit();

}  // namespace lmhead
