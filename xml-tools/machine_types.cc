#include "xml-tools/machine_types.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace virt_reclaim::xml {
namespace {

// QEMU's own families, which share one list of compatibility settings a version: hw_compat_3_1
// switches off the property 'discard' of virtio-blk. Measured with QEMU 7.2 on pc-i440fx and
// pc-q35; docs/discard-support.md.
constexpr absl::string_view kFamilies[] = {"pc-i440fx", "pc-q35", "pseries", "virt",
                                           "s390-ccw-virtio"};
constexpr absl::string_view kFirstPassing = "4.0";

// 'microvm' has no versions and the property true (measured).
constexpr absl::string_view kAliases[] = {
    "pc", "q35", "virt", "pseries", "s390-ccw-virtio", "s390-ccw", "microvm"};

// Ubuntu names machine types after its releases; "-hpb" (host-phys-bits) and "-v2" may follow. Seen
// in its capabilities.
constexpr absl::string_view kUbuntuReleases[] = {
    "trusty", "utopic",  "vivid", "wily",   "xenial", "yakkety",  "zesty",   "artful",
    "bionic", "cosmic",  "disco", "eoan",   "focal",  "groovy",   "hirsute", "impish",
    "jammy",  "kinetic", "lunar", "mantic", "noble",  "oracular", "plucky",  "questing"};

std::optional<std::vector<uint32_t>> ParseVersion(absl::string_view text) {
  std::vector<uint32_t> version;
  for (const absl::string_view part : absl::StrSplit(text, '.')) {
    uint32_t number = 0;
    const bool digits =
        !part.empty() && part.find_first_not_of("0123456789") == absl::string_view::npos;
    if (!digits || !absl::SimpleAtoi(part, &number)) return std::nullopt;
    version.push_back(number);
  }
  if (version.size() < 2) return std::nullopt;
  return version;
}

bool IsDownstream(absl::string_view version) {
  if (absl::StartsWith(version, "rhel")) return true;
  const absl::string_view release = version.substr(0, version.find('-'));
  return std::find(std::begin(kUbuntuReleases), std::end(kUbuntuReleases), release) !=
         std::end(kUbuntuReleases);
}

}  // namespace

MachineType ParseMachineType(absl::string_view name) {
  MachineType machine;
  machine.name = std::string(name);
  if (name.empty()) {
    machine.kind = MachineKind::kNotSaid;
    return machine;
  }
  if (std::find(std::begin(kAliases), std::end(kAliases), name) != std::end(kAliases)) {
    machine.kind = MachineKind::kAlias;
    return machine;
  }
  for (const absl::string_view family : kFamilies) {
    if (!absl::StartsWith(name, family) || name.size() <= family.size() ||
        name[family.size()] != '-')
      continue;
    const absl::string_view rest = name.substr(family.size() + 1);
    if (std::optional<std::vector<uint32_t>> version = ParseVersion(rest)) {
      machine.kind = MachineKind::kVersioned;
      machine.version = *std::move(version);
    } else if (IsDownstream(rest)) {
      machine.kind = MachineKind::kDownstream;
    } else {
      return machine;
    }
    machine.family = std::string(family);
    return machine;
  }
  return machine;
}

bool VersionLess(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    const uint32_t left = i < a.size() ? a[i] : 0, right = i < b.size() ? b[i] : 0;
    if (left != right) return left < right;
  }
  return false;
}

std::optional<bool> VirtioBlkPassesDiscards(const MachineType& machine) {
  switch (machine.kind) {
    case MachineKind::kNotSaid:
    case MachineKind::kAlias:
      return true;
    case MachineKind::kVersioned:
      return !VersionLess(machine.version, *ParseVersion(kFirstPassing));
    case MachineKind::kDownstream:
    case MachineKind::kUnknown:
      break;
  }
  return std::nullopt;
}

std::optional<std::string> RaisedForVirtioBlk(const MachineType& machine) {
  if (machine.kind != MachineKind::kVersioned || VirtioBlkPassesDiscards(machine) == true)
    return std::nullopt;
  return absl::StrCat(machine.family, "-", kFirstPassing);
}

}  // namespace virt_reclaim::xml
