// The policy files of this machine.
#ifndef VIRT_RECLAIM_HOST_POLICY_READ_POLICY_H_
#define VIRT_RECLAIM_HOST_POLICY_READ_POLICY_H_

#include <string>

#include "absl/status/statusor.h"
#include "host/policy/policy.h"

namespace virt_reclaim::policy {

inline constexpr char kStandardPath[] = "/etc/virt-reclaim/config.toml";

// Reads `path`, then every *.toml in conf.d beside it, by name. A directory or a file that is not
// there is empty, unless `must_exist`: then `path` itself must be there. InvalidArgument: a mistake
// in a file, in one line with its place (toml_reader.h), or a file of more than 1 MiB. NotFound,
// PermissionDenied and the like: a file cannot be read. Any thread.
absl::StatusOr<Policy> ReadPolicy(const std::string& path, bool must_exist);

}  // namespace virt_reclaim::policy

#endif  // VIRT_RECLAIM_HOST_POLICY_READ_POLICY_H_
