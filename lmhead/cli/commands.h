// One function a native verb; each returns the exit code.
#pragma once

#include "lmhead/cli/command_line.h"

namespace lmhead {

int run_train(const TrainRequest& request);
int run_study(const StudyRequest& request);
int run_heads(const HeadsRequest& request);

}  // namespace lmhead
