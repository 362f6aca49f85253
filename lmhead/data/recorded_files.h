// Whether a dataset's files are the ones that its sidecar records.
#pragma once

#include "lmhead/data/sidecar.h"

namespace lmhead {

/// Throws where the file of a split has not the SHA-256 that the sidecar records. A file that was found to have it is
/// known by its size and time from then on, which `checked.json` beside it says, and is read again (at about 1 GB/s)
/// only where these change. Where that file cannot be written, every call reads.
void require_recorded_files(const Sidecar& sidecar);

}  // namespace lmhead
