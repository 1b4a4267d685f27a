// The last trims of each domain: STATE/history/HYPERVISOR/UUID.json, replaced as a whole. What it
// says is for people and estimates; nothing is done, or left undone for good, because of it.
#ifndef VIRT_RECLAIM_HOST_SERVICES_TRIM_HISTORY_H_
#define VIRT_RECLAIM_HOST_SERVICES_TRIM_HISTORY_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "host/model/trim_record.h"

namespace virt_reclaim {

class TrimHistory {
 public:
  static constexpr size_t kMostRecords = 100;  // of a domain; the oldest give way

  // `uri` is the hypervisor's.
  TrimHistory(const std::string& state_directory, absl::string_view uri);

  // The trims of a domain, the latest last. A file that is not there or cannot be read is none:
  // it is replaced by the next trim. Any thread.
  std::vector<TrimRecord> Read(const std::string& uuid) const;

  // On disk when it returns OK. A record of a trim that began at the same time gives way: a trim
  // may be remembered before it has ended. One caller at a time for each domain: it holds the
  // domain's lock.
  absl::Status Append(const std::string& uuid, const std::string& name,
                      const TrimRecord& record) const;

 private:
  std::string directory_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_TRIM_HISTORY_H_
