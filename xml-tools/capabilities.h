// What a hypervisor can do, out of libvirt's capabilities XML
// (https://libvirt.org/formatcaps.html). Pure. Any thread.
#ifndef VIRT_RECLAIM_XML_TOOLS_CAPABILITIES_H_
#define VIRT_RECLAIM_XML_TOOLS_CAPABILITIES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::xml {

struct HostMachines {
  std::vector<std::string> names;       // each once, aliases too, in the order of the document
  std::vector<std::string> deprecated;  // those of `names` that a later QEMU will not have
};

// The machine types of guests of `arch` ("x86_64") and domain type ("kvm"). Empty when it has no
// such guests. InvalidArgument: not well-formed, or another root than <capabilities>.
absl::StatusOr<HostMachines> MachineTypesOf(absl::string_view capabilities, absl::string_view arch,
                                            absl::string_view type);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_CAPABILITIES_H_
