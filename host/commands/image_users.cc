#include "host/commands/image_users.h"

#include <sys/stat.h>

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

std::optional<std::tuple<uint64_t, uint64_t, uint64_t>> KeyOf(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return std::nullopt;
  if (S_ISBLK(status.st_mode)) return std::tuple(uint64_t{0}, uint64_t{0}, status.st_rdev);
  return std::tuple(status.st_dev, status.st_ino, uint64_t{0});
}

// What is not known may be in use.
absl::Status NotKnown(const DomainSummary& domain, const absl::Status& why) {
  return absl::FailedPreconditionError(absl::StrCat(
      "which images '", Printable(domain.name), "' uses is not known: ", Printable(why.message()),
      "; so any of them may be its own"));
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
        ImageUse use = {domain, disk.target, disk.source.format, 0, disk.shareable};
        users.Add(disk.source.path, use);
        if (disk.source.type != "file") continue;
        const auto chain = services.images.Chain(disk.source, disk.backing);
        if (!chain.ok()) {
          // It is not there, or cannot be read: what the definition says is all there is.
          for (const xml::ImageSource& below : disk.backing) {
            ++use.depth;
            use.format = below.format;
            users.Add(below.path, use);
          }
          continue;
        }
        for (size_t depth = 1; depth < chain->size(); ++depth) {
          use.depth = depth;
          use.format = (*chain)[depth].format;
          users.Add((*chain)[depth].path, use);
        }
      }
    }
  }
  return users;
}

std::vector<ImageUse> ImageUsers::Of(const std::string& path) const {
  const auto key = KeyOf(path);
  if (!key) return {};
  const auto found = uses_.find(*key);
  return found == uses_.end() ? std::vector<ImageUse>{} : found->second;
}

}  // namespace virt_reclaim
