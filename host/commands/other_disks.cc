#include "host/commands/other_disks.h"

#include <sys/stat.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "host/commands/collect.h"

namespace virt_reclaim {
namespace {

// A block device by its number, whatever its node.
bool IsSame(const std::string& path, const std::string& other) {
  struct stat one;
  struct stat two;
  if (path == other) return true;
  if (stat(path.c_str(), &one) != 0 || stat(other.c_str(), &two) != 0) return false;
  if (S_ISBLK(one.st_mode) && S_ISBLK(two.st_mode)) return one.st_rdev == two.st_rdev;
  return one.st_dev == two.st_dev && one.st_ino == two.st_ino;
}

void AddDisk(const Services& services, const std::string& domain, const xml::Disk& disk,
             OtherDisks& others) {
  const std::string& path = disk.source.path;
  const bool local =
      (disk.source.type == "file" || disk.source.type == "block") && absl::StartsWith(path, "/");
  // libvirt never probes: no format means raw.
  const std::string format = disk.source.format.empty() ? "raw" : disk.source.format;
  const auto header = local ? services.images.ReadHeader(path, format)
                            : absl::StatusOr<ImageHeader>(absl::UnavailableError("not local"));
  // Of an overlay only the top layer would be read.
  if (!header.ok() || header->backing || header->external_data || header->encrypted) {
    others.not_known.push_back(absl::StrCat(Printable(domain), " ", Printable(disk.target)));
    return;
  }
  const bool known =
      std::any_of(others.specs.begin(), others.specs.end(),
                  [&](const sparsify::DiskSpec& spec) { return IsSame(spec.path, path); });
  if (!known) others.specs.push_back({path, header->format, header->granularity});
}

void AddRemark(const std::string& disk, std::vector<Blocker>& remarks) {
  remarks.push_back(
      {Reason::kImageUnreadable, absl::StrCat(disk, ": a hibernated system on it is not noticed")});
}

}  // namespace

OtherDisks FindOtherDisks(const Services& services, const std::vector<DomainSummary>& users,
                          const std::string& path) {
  OtherDisks others;
  for (const DomainSummary& user : users) {
    const auto facts = CollectDomain(services, user, Hypervisor::Xml::kInactive);
    if (!facts.ok()) {
      others.not_known.push_back(Printable(user.name));
      continue;
    }
    for (const DiskFacts& disk : facts->disks) {
      const bool medium = disk.xml.device == "cdrom" || disk.xml.device == "floppy";
      if (!medium && !IsSame(disk.xml.source.path, path))
        AddDisk(services, user.name, disk.xml, others);
    }
  }
  return others;
}

absl::Status CheckAwake(const Services& services, const std::vector<sparsify::DiskSpec>& disks,
                        const OtherDisks& others, const sparsify::SparsifyOptions& options,
                        const std::stop_token& stop, std::vector<Blocker>& remarks) {
  for (const std::string& disk : others.not_known) AddRemark(disk, remarks);
  if (others.specs.empty()) return absl::OkStatus();
  std::vector<sparsify::DiskSpec> all = disks;
  all.insert(all.end(), others.specs.begin(), others.specs.end());
  const auto read =
      services.sparsify(all, sparsify::Mode::kMeasure, options, nullptr, nullptr, stop);
  if (absl::IsCancelled(read.status())) return read.status();
  if (!read.ok()) {
    AddRemark(absl::StrCat("the other disks: ", Printable(read.status().message())), remarks);
    return absl::OkStatus();
  }
  for (const sparsify::FilesystemResult& filesystem : read->filesystems) {
    if (absl::StrContains(filesystem.found.reason, freemap::kHibernated)) {
      return absl::FailedPreconditionError(
          "a hibernated system is on another disk of the guest that has it");
    }
  }
  return absl::OkStatus();
}

}  // namespace virt_reclaim
