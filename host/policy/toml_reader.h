// One policy file: TOML -> Policy, or the first mistake with its place. Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_POLICY_TOML_READER_H_
#define VIRT_RECLAIM_HOST_POLICY_TOML_READER_H_

#include <string>

#include "absl/status/status.h"
#include "host/policy/policy.h"

namespace virt_reclaim::policy {

// Adds what `text`, the content of `file`, says to `policy`: values of [limits] and [defaults] take
// the place of those that are there, rules and backup directories come after them. InvalidArgument,
// in one line: "FILE:LINE:COLUMN: ", what is wrong there, and what to write instead; `policy` is
// not to be used then.
absl::Status AddToml(const std::string& file, const std::string& text, Policy& policy);

}  // namespace virt_reclaim::policy

#endif  // VIRT_RECLAIM_HOST_POLICY_TOML_READER_H_
