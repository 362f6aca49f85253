// One function a native verb; each returns the exit code.
#pragma once

#include "lmhead/cli/command_line.h"

namespace lmhead {

class Processes;

int run_train(const TrainRequest& request, const Processes& processes);
int run_plan(const PlanRequest& request);
int run_study(const StudyRequest& request);
int run_heads(const HeadsRequest& request);
int run_measure(const MeasureRequest& request);
int run_inspect(const InspectRequest& request);
int run_export(const ExportRequest& request);
int run_sample(const SampleRequest& request);

}  // namespace lmhead
