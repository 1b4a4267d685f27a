// What decides whether this guest comes up after its disks moved to another bus, and whether
// discards reach them then: facts, each as the guest's files (guest-config/), /proc and /sys have
// it. No judgement: that is the host's. Any thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_PREFLIGHT_H_
#define VIRT_RECLAIM_GUEST_AGENT_PREFLIGHT_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "base/subprocess.h"
#include "guest-agent/filesystems.h"
#include "guest-agent/root_files.h"
#include "guest-config/preflight_facts.h"

namespace virt_reclaim::agent {

// Where the facts are from; tests replace all of it.
struct PreflightSources {
  RootFiles files;
  std::string sysfs = "/sys";
  std::string kernel_release;  // uname -r
  std::function<absl::StatusOr<FilesystemList>()> read_filesystems;
  IdentifyDevice identify;
  CommandRunner run;
};
PreflightSources RealPreflightSources();

// Errors: the mount table cannot be read. Anything else that cannot be found out stays unknown.
absl::StatusOr<Preflight> ReadPreflight(const PreflightSources& sources);

// What `preflight` prints.
std::string PreflightText(const Preflight& preflight);
std::string PreflightJson(const Preflight& preflight);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_PREFLIGHT_H_
