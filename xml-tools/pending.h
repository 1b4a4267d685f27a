// What of a saved definition the running domain does not have yet. Pure. Any thread.
#ifndef VIRT_RECLAIM_XML_TOOLS_PENDING_H_
#define VIRT_RECLAIM_XML_TOOLS_PENDING_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::xml {

// Empty: a power cycle would change nothing that the guest sees, as far as can be told. Else where
// `saved` and `live` differ first, in names only, since values may be secrets: "memory",
// "devices/interface[52:54:00:00:00:01]/model/@type". Both are the same domain as libvirt shows it,
// saved (inactive) and running.
//
// What `saved` says is looked for in `live`; what only `live` says libvirt has filled in when the
// domain started (aliases, targets, ports, labels, a host's CPU, memory rounded up to MiB), apart
// from whole devices that can be plugged in. Not looked at: what a migration itself changes and
// compares (machine type, disks but for their cache, I/O, serial and boot order, controllers,
// channels); addresses; what changes while a domain runs (media, balloon, links, shares of the
// host's resources); the host's own matters (labels, titles, metadata).
//
// InvalidArgument: one of them is not to be read (document.h).
absl::StatusOr<std::string> FirstPending(absl::string_view saved, absl::string_view live);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_PENDING_H_
