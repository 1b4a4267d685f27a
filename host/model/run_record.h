// What the last run of a job came to. A plain value.
#ifndef VIRT_RECLAIM_HOST_MODEL_RUN_RECORD_H_
#define VIRT_RECLAIM_HOST_MODEL_RUN_RECORD_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace virt_reclaim {

struct RunRecord {
  std::string job;  // "trim"
  absl::Time ended;
  bool success = false;  // nothing failed, and what should have come back came back
  int64_t freed = 0;     // bytes, measured, over what it is known of
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_RUN_RECORD_H_
