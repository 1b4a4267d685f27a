// The last run of each job: STATE/runs/JOB.json, replaced as a whole. For metrics; nothing is done,
// or left undone, because of it.
#ifndef VIRT_RECLAIM_HOST_SERVICES_RUN_HISTORY_H_
#define VIRT_RECLAIM_HOST_SERVICES_RUN_HISTORY_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "host/model/run_record.h"

namespace virt_reclaim {

// Of the jobs that have one, by their names. A file that cannot be read is none. Any thread.
std::vector<RunRecord> ReadRuns(const std::string& state_directory);

// On disk when it returns OK. `record.job` is a word of policy::Name. One caller at a time for each
// job, else the last one counts.
absl::Status WriteRun(const std::string& state_directory, const RunRecord& record);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_RUN_HISTORY_H_
