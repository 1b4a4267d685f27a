// Where a hypervisor's state lies: STATE/KIND/HYPERVISOR, with what is about a domain under its
// UUID.
#ifndef VIRT_RECLAIM_HOST_SERVICES_STATE_PATH_H_
#define VIRT_RECLAIM_HOST_SERVICES_STATE_PATH_H_

#include <string>

#include "absl/strings/string_view.h"

namespace virt_reclaim {

// `uri` is the hypervisor's; what is no letter, digit, dot or dash in it becomes %XX, and a long
// one is cut and gets its digest.
std::string StatePath(const std::string& state_directory, absl::string_view kind,
                      absl::string_view uri);

// SHA-256 of `text`, in hex.
std::string Digest(absl::string_view text);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_STATE_PATH_H_
