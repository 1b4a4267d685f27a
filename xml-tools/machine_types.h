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
  kDownstream,  // of a distribution: rhel, Ubuntu code names; with contents and an order of their
                // own
  kUnknown,
};

struct MachineType {
  MachineKind kind = MachineKind::kUnknown;
  std::string name;               // as written
  std::string family;             // "pc-i440fx"; of kVersioned, kDownstream and most of kAlias
  std::string vendor;             // of kDownstream: "rhel", "ubuntu"
  std::string suffix;             // of kDownstream: "-hpb" of "pc-q35-jammy-hpb"
  std::vector<uint32_t> version;  // {2, 12}; of kDownstream {8, 6, 0} for rhel8.6.0 and {22, 4} for
                                  // jammy
};

MachineType ParseMachineType(absl::string_view name);

// Missing parts count as 0: 4.0 == 4.0.0 < 4.0.1.
bool VersionLess(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b);

// nullopt: not known.
std::optional<bool> VirtioBlkPassesDiscards(const MachineType& machine);

// Whether one may take the place of the other: same family, and both QEMU's own or both of the same
// distribution and variant. Only of kVersioned and kDownstream.
bool SameFamily(const MachineType& a, const MachineType& b);

// The lowest machine type of the same family with which virtio-blk passes discards, among `known`
// unless that is empty; nullopt when `machine` passes them already, or none is known to.
std::optional<std::string> RaisedForVirtioBlk(const MachineType& machine,
                                              const std::vector<std::string>& known = {});

// The newest machine type of the same family: among `known`, or when that is empty the alias that
// the host's libvirt replaces by its newest ("q35" for "pc-q35-3.1"). The name itself when it is
// the newest; nullopt when that cannot be told (a distribution's, without `known`).
std::optional<std::string> NewestOfFamily(const MachineType& machine,
                                          const std::vector<std::string>& known = {});

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_MACHINE_TYPES_H_
