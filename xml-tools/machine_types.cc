#include "xml-tools/machine_types.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/contains.h"

namespace virt_reclaim::xml {
namespace {

// QEMU's own families, which share one list of compatibility settings a version: hw_compat_3_1
// switches off the property 'discard' of virtio-blk. Measured with QEMU 7.2 on pc-i440fx and
// pc-q35; docs/discard-support.md.
constexpr absl::string_view kFamilies[] = {"pc-i440fx", "pc-q35", "pseries", "virt",
                                           "s390-ccw-virtio"};
constexpr absl::string_view kFirstPassing = "4.0";

// 'microvm' has no versions and the property true (measured).
struct Alias {
  absl::string_view name, family;
};
constexpr Alias kAliases[] = {{"pc", "pc-i440fx"},
                              {"q35", "pc-q35"},
                              {"virt", "virt"},
                              {"pseries", "pseries"},
                              {"s390-ccw-virtio", "s390-ccw-virtio"},
                              {"s390-ccw", "s390-ccw-virtio"},
                              {"microvm", ""}};

// RHEL and CentOS Stream: hw_compat_rhel_8_0 ("the same as hw_compat_3_1") switches the property
// 'discard' of virtio-blk off, and every type up to pc-q35-rhel8.0.0 takes it; so does
// pc-i440fx-rhel7.6.0, the last of its family. Source: the patches "Machine type related general
// changes" and "Add x86_64 machine types" of the package qemu-kvm 8.2 (el9). Only x86 was read.
constexpr absl::string_view kRhelX86[] = {"pc-i440fx", "pc-q35"};
constexpr uint32_t kRhelFirstPassing[] = {8, 1, 0};
constexpr absl::string_view kRhelRaised = "pc-q35-rhel8.1.0";

// Ubuntu names machine types after its releases and builds each on a version of QEMU's own; a
// variant ("-hpb": host-phys-bits) may follow. Source: debian/patches/ubuntu/
// define-ubuntu-machine-types.patch of its package qemu 8.2 (24.04): disco is 3.1 and eoan 4.0 in
// all three families that were read. `read` is false for releases that patch does not have.
constexpr absl::string_view kUbuntuFamilies[] = {"pc-i440fx", "pc-q35", "pseries"};
struct UbuntuRelease {
  absl::string_view name;
  uint32_t year, month;
  bool read;
};
constexpr UbuntuRelease kUbuntuReleases[] = {
    {"trusty", 14, 4, true},     {"utopic", 14, 10, false}, {"vivid", 15, 4, false},
    {"wily", 15, 10, false},     {"xenial", 16, 4, true},   {"yakkety", 16, 10, true},
    {"zesty", 17, 4, true},      {"artful", 17, 10, true},  {"bionic", 18, 4, true},
    {"cosmic", 18, 10, true},    {"disco", 19, 4, true},    {"eoan", 19, 10, true},
    {"focal", 20, 4, true},      {"groovy", 20, 10, true},  {"hirsute", 21, 4, true},
    {"impish", 21, 10, true},    {"jammy", 22, 4, true},    {"kinetic", 22, 10, true},
    {"lunar", 23, 4, true},      {"mantic", 23, 10, true},  {"noble", 24, 4, true},
    {"oracular", 24, 10, false}, {"plucky", 25, 4, false},  {"questing", 25, 10, false}};
constexpr uint32_t kUbuntuFirstPassing[] = {19, 10};
constexpr absl::string_view kUbuntuRaised = "eoan";
constexpr absl::string_view kUbuntuRaisedSuffixes[] = {"", "-hpb"};  // that eoan has

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

const UbuntuRelease* FindUbuntuRelease(absl::string_view name) {
  const auto found = std::find_if(std::begin(kUbuntuReleases), std::end(kUbuntuReleases),
                                  [&](const UbuntuRelease& r) { return r.name == name; });
  return found == std::end(kUbuntuReleases) ? nullptr : found;
}

// "rhel9.2.0", "jammy-hpb": true when the name is of a distribution.
bool ParseDownstream(absl::string_view rest, MachineType& machine) {
  const absl::string_view release = rest.substr(0, rest.find('-'));
  machine.suffix = std::string(rest.substr(release.size()));
  if (absl::StartsWith(release, "rhel")) {
    machine.vendor = "rhel";
    machine.version = ParseVersion(release.substr(4)).value_or(std::vector<uint32_t>());
  } else if (const UbuntuRelease* const ubuntu = FindUbuntuRelease(release)) {
    machine.vendor = "ubuntu";
    machine.version = {ubuntu->year, ubuntu->month};
  } else {
    return false;
  }
  machine.kind = MachineKind::kDownstream;
  return true;
}

template <size_t N>
bool IsBefore(const std::vector<uint32_t>& version, const uint32_t (&first)[N]) {
  return VersionLess(version, std::vector<uint32_t>(std::begin(first), std::end(first)));
}

std::optional<bool> DownstreamPasses(const MachineType& machine) {
  if (machine.version.empty()) return std::nullopt;
  if (machine.vendor == "rhel") {
    if (!Contains(kRhelX86, machine.family)) return std::nullopt;
    return !IsBefore(machine.version, kRhelFirstPassing);
  }
  if (!Contains(kUbuntuFamilies, machine.family)) return std::nullopt;
  const auto of_version = [&](const UbuntuRelease& release) {
    return machine.version == std::vector<uint32_t>{release.year, release.month};
  };
  const auto release =
      std::find_if(std::begin(kUbuntuReleases), std::end(kUbuntuReleases), of_version);
  if (release == std::end(kUbuntuReleases) || !release->read) return std::nullopt;
  return !IsBefore(machine.version, kUbuntuFirstPassing);
}

std::optional<std::string> RaisedWithoutList(const MachineType& machine) {
  if (machine.kind == MachineKind::kVersioned)
    return absl::StrCat(machine.family, "-", kFirstPassing);
  if (machine.vendor == "rhel") {
    if (machine.family != "pc-q35" || !machine.suffix.empty()) return std::nullopt;
    return std::string(kRhelRaised);
  }
  if (!Contains(kUbuntuRaisedSuffixes, machine.suffix)) return std::nullopt;
  return absl::StrCat(machine.family, "-", kUbuntuRaised, machine.suffix);
}

}  // namespace

MachineType ParseMachineType(absl::string_view name) {
  MachineType machine;
  machine.name = std::string(name);
  if (name.empty()) {
    machine.kind = MachineKind::kNotSaid;
    return machine;
  }
  for (const Alias& alias : kAliases) {
    if (name != alias.name) continue;
    machine.kind = MachineKind::kAlias;
    machine.family = std::string(alias.family);
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
    } else if (!ParseDownstream(rest, machine)) {
      machine.suffix.clear();
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
      return DownstreamPasses(machine);
    case MachineKind::kUnknown:
      break;
  }
  return std::nullopt;
}

bool SameFamily(const MachineType& a, const MachineType& b) {
  const auto has_version = [](const MachineType& machine) {
    return (machine.kind == MachineKind::kVersioned || machine.kind == MachineKind::kDownstream) &&
           !machine.version.empty();
  };
  return has_version(a) && has_version(b) && a.kind == b.kind && a.family == b.family &&
         a.vendor == b.vendor && a.suffix == b.suffix;
}

std::optional<std::string> RaisedForVirtioBlk(const MachineType& machine,
                                              const std::vector<std::string>& known) {
  if (VirtioBlkPassesDiscards(machine) != false) return std::nullopt;
  if (known.empty()) return RaisedWithoutList(machine);
  std::optional<MachineType> lowest;
  for (const std::string& name : known) {
    MachineType candidate = ParseMachineType(name);
    if (!SameFamily(machine, candidate) || VirtioBlkPassesDiscards(candidate) != true) continue;
    if (!lowest || VersionLess(candidate.version, lowest->version)) lowest = std::move(candidate);
  }
  return lowest ? std::optional<std::string>(lowest->name) : std::nullopt;
}

std::optional<std::string> NewestOfFamily(const MachineType& machine,
                                          const std::vector<std::string>& known) {
  if (machine.kind == MachineKind::kNotSaid || machine.kind == MachineKind::kAlias)
    return machine.name;
  if (machine.kind == MachineKind::kUnknown) return std::nullopt;
  if (known.empty()) {
    if (machine.kind == MachineKind::kDownstream) return std::nullopt;
    for (const Alias& alias : kAliases) {
      if (alias.family == machine.family) return std::string(alias.name);
    }
    return std::nullopt;
  }
  MachineType newest = machine;
  for (const std::string& name : known) {
    MachineType candidate = ParseMachineType(name);
    if (SameFamily(machine, candidate) && VersionLess(newest.version, candidate.version))
      newest = std::move(candidate);
  }
  return newest.name;
}

}  // namespace virt_reclaim::xml
