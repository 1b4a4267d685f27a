#include "host/commands/image_users.h"

#include <sys/stat.h>

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

constexpr int kMostBelow = 200;  // libvirt's own limit (virStorageFileGetMetadata)

// What is not known may be in use.
absl::Status NotKnown(const DomainSummary& domain, const absl::Status& why) {
  return absl::FailedPreconditionError(absl::StrCat(
      "which images '", Printable(domain.name), "' uses is not known: ", Printable(why.message()),
      "; so any of them may be its own"));
}

// QEMU opens no image there (file-posix.c), and so nothing that one would stand on.
bool IsNoImage(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode);
}

}  // namespace

std::optional<Blocker> NotOff(const Services& services, const DomainSummary& domain) {
  const std::string name = Printable(domain.name);
  const auto state = services.hypervisor.State(domain.uuid);
  if (!state.ok()) return Blocker{Reason::kRunning, absl::StrCat(name, ": state not known")};
  if (*state == DomainState::kPaused) return Blocker{Reason::kPaused, name};
  if (*state != DomainState::kShutOff)
    return Blocker{Reason::kRunning, absl::StrCat(name, ": ", Name(*state))};
  const auto saved = services.hypervisor.HasManagedSave(domain.uuid);
  if (saved.ok() && !*saved) return std::nullopt;
  if (!saved.ok() && absl::IsUnimplemented(saved.status())) return std::nullopt;
  return Blocker{Reason::kManagedSave, name};
}

std::optional<ImageUsers::Key> ImageUsers::KeyOf(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return std::nullopt;
  if (S_ISBLK(status.st_mode)) return Key(0, 0, status.st_rdev);
  return Key(status.st_dev, status.st_ino, 0);
}

void ImageUsers::Add(const std::string& path, const ImageUse& use) {
  const auto key = KeyOf(path);
  if (!key) return;
  std::vector<ImageUse>& uses = uses_[*key];
  const bool known = std::any_of(uses.begin(), uses.end(), [&](const ImageUse& other) {
    return other.domain.uuid == use.domain.uuid && other.target == use.target &&
           other.depth == use.depth;
  });
  if (!known) uses.push_back(use);
}

absl::StatusOr<ImageUsers> ImageUsers::Find(const Services& services, const std::stop_token& stop) {
  ImageUsers users;
  VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> domains, services.hypervisor.ListDomains());
  for (const DomainSummary& domain : domains) {
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
    for (const Hypervisor::Xml kind : {Hypervisor::Xml::kInactive, Hypervisor::Xml::kLive}) {
      const bool none = kind == Hypervisor::Xml::kInactive && !domain.persistent;
      const bool same = kind == Hypervisor::Xml::kLive && domain.state == DomainState::kShutOff;
      if (none || same) continue;
      const auto text = services.hypervisor.DomainXml(domain.uuid, kind);
      if (absl::IsNotFound(text.status())) continue;  // it has just gone
      if (!text.ok()) return NotKnown(domain, text.status());
      const auto parsed = xml::ParseDomain(*text);
      if (!parsed.ok()) return NotKnown(domain, parsed.status());
      for (const xml::Disk& disk : parsed->disks) {
        const absl::Status known = users.AddDisk(services, domain, disk);
        if (known.ok()) continue;
        users.unknown_.push_back(
            {disk.source.path,
             absl::StrCat("it may be what '", Printable(disk.target), "' of '",
                          Printable(domain.name),
                          "' stands on, which is not known: ", Printable(known.message()))});
      }
    }
  }
  return users;
}

absl::Status ImageUsers::AddDisk(const Services& services, const DomainSummary& domain,
                                 const xml::Disk& disk) {
  xml::ImageSource source = disk.source;
  if (source.type == "volume") {
    const size_t slash = source.path.find('/');
    const auto path = services.hypervisor.VolumePath(
        source.path.substr(0, slash),
        slash == std::string::npos ? "" : source.path.substr(slash + 1));
    // Of a domain that has memory to come back to it is not gone, whatever libvirt says.
    if (absl::IsNotFound(path.status()) && !NotOff(services, domain)) return absl::OkStatus();
    VR_RETURN_IF_ERROR(path.status());
    source.type = "file";
    source.path = *path;
  }
  ImageUse use = {domain, disk.target, source.format, 0, disk.shareable};
  Add(source.path, use);
  // What a definition says is what QEMU is given, whatever the header of the image says.
  for (const xml::ImageSource& below : disk.backing) {
    ++use.depth;
    use.format = below.format;
    Add(below.path, use);
  }
  const xml::ImageSource& last = disk.backing.empty() ? source : disk.backing.back();
  if (last.type != "file" && last.type != "block") return absl::OkStatus();
  return AddBelow(services, last.path, use);
}

absl::Status ImageUsers::AddBelow(const Services& services, std::string path, ImageUse use) {
  // libvirt never probes: no format means raw. Where a header does not tell, QEMU looks.
  if (use.format.empty() || IsNoImage(path)) return absl::OkStatus();
  for (int step = 0; step < kMostBelow; ++step) {
    if (use.format == "raw") return absl::OkStatus();
    const auto header = services.images.ReadHeader(path, use.format);
    if (step == 0 && absl::IsNotFound(header.status())) return absl::OkStatus();
    VR_RETURN_IF_ERROR(header.status());
    if (header->external_data && header->data_path.empty())
      return absl::UnimplementedError(Quoted(path) + " does not name its data file");
    if (header->external_data) {
      ImageUse data = use;
      ++data.depth;
      Add(header->data_path, data);
    }
    if (!header->backing || header->backing_elsewhere) return absl::OkStatus();
    if (header->backing_path.empty())
      return absl::UnimplementedError(Quoted(path) + " names no file that it stands on");
    path = header->backing_path;
    use.format = header->backing_format;
    ++use.depth;
    Add(path, use);
  }
  return absl::ResourceExhaustedError(Quoted(path) + ": the chain does not end");
}

std::string ImageUsers::MayBeBelow(const std::string& path) const {
  const auto key = KeyOf(path);
  if (!key) return "";
  for (const Unknown& unknown : unknown_) {
    const bool itself = unknown.path == path || KeyOf(unknown.path) == key;
    if (!itself) return unknown.why;
  }
  return "";
}

std::vector<ImageUse> ImageUsers::Of(const std::string& path) const {
  const auto key = KeyOf(path);
  if (!key) return {};
  const auto found = uses_.find(*key);
  return found == uses_.end() ? std::vector<ImageUse>{} : found->second;
}

}  // namespace virt_reclaim
