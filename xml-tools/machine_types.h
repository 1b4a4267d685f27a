// QEMU machine types by name: family and version, compared number by number ("2.12" is newer than
// "2.9"), and which of them pass discards of virtio-blk. Pure. Any thread.
#ifndef VIRT_RECLAIM_XML_TOOLS_MACHINE_TYPES_H_
#define VIRT_RECLAIM_XML_TOOLS_MACHINE_TYPES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace virt_reclaim::xml {

enum class MachineKind {
  kNotSaid,     // no @machine: the host's default, which is its newest
  kAlias,       // pc, q35, virt, ...: in a file it means the newest one of the host
  kVersioned,   // a family of QEMU's own and a version
  kDownstream,  // of a distribution: rhel, Ubuntu code names; their order and contents are not
                // QEMU's
  kUnknown,
};

struct MachineType {
  MachineKind kind = MachineKind::kUnknown;
  std::string name;               // as written
  std::string family;             // "pc-i440fx"; only of kVersioned and kDownstream
  std::vector<uint32_t> version;  // {2, 12}; only of kVersioned
};

MachineType ParseMachineType(absl::string_view name);

// Missing parts count as 0: 4.0 == 4.0.0 < 4.0.1.
bool VersionLess(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b);

// nullopt: not known.
std::optional<bool> VirtioBlkPassesDiscards(const MachineType& machine);

// The lowest machine type of the same family with which virtio-blk passes discards; nullopt when
// `machine` passes them already or may not be changed (another distribution's, unknown).
std::optional<std::string> RaisedForVirtioBlk(const MachineType& machine);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_MACHINE_TYPES_H_
