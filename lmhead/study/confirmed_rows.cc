#include "lmhead/study/confirmed_rows.h"

namespace lmhead {

ConfirmedRows confirmed_rows(StudyProgress& progress) {
  const Study& study = progress.study();
  ConfirmedRows confirmed{study, progress.plan(), std::vector<RowsBySeed>(study.arms.size())};
  for (std::size_t arm = 0; arm < study.arms.size(); ++arm)
    for (const StudyRun& run : confirmed.plan.arms[arm].confirmation_runs)
      if (const RunRow* row = progress.row_of(run)) confirmed.rows[arm][run.seed] = row;
  return confirmed;
}

}  // namespace lmhead
