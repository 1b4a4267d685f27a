// Names of disks (vda, sdb) and what libvirt derives from them. Pure. Any thread. Internal to
// xml-tools.
#ifndef VIRT_RECLAIM_XML_TOOLS_TARGETS_H_
#define VIRT_RECLAIM_XML_TOOLS_TARGETS_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "xml-tools/domain.h"

namespace virt_reclaim::xml {

// target/@bus, and libvirt's own guess by the name when that is missing.
std::string BusOf(const Disk& disk);

// sda is 0, sdz 25, sdaa 26.
uint32_t IndexOfTarget(absl::string_view target);
std::string ScsiTarget(uint32_t index);

// The address of a disk on bus scsi; without one in the XML libvirt counts seven units to a
// controller by the name of the target.
DriveAddress ScsiAddress(const Disk& disk);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_TARGETS_H_
