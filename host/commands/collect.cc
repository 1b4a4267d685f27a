#include "host/commands/collect.h"

#include <fnmatch.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "base/suggest.h"
#include "host/commands/domain_turn.h"
#include "host/model/guest_disks.h"

namespace virt_reclaim {
namespace {

DiskFacts CollectDisk(const Services& services, const DomainSummary& summary,
                      const xml::Disk& disk) {
  DiskFacts facts;
  facts.xml = disk;
  if (disk.device != "disk" || disk.source.path.empty()) return facts;
  if (disk.source.type == "file" && services.hypervisor.ImagesAreLocal()) {
    auto chain = services.images.Chain(disk.source, disk.backing);
    if (!chain.ok()) {
      facts.image_error = chain.status();
      return facts;
    }
    facts.chain = *std::move(chain);
    if (facts.chain.empty()) return facts;
    facts.usage = facts.chain.front().usage;
    for (size_t i = 1; i < facts.chain.size() && facts.usage.allocation; ++i) {
      const auto& below = facts.chain[i].usage.allocation;
      facts.usage.allocation =
          below ? std::optional<uint64_t>(*facts.usage.allocation + *below) : std::nullopt;
    }
    if (facts.usage.capacity) return facts;
  }
  auto usage = services.hypervisor.BlockUsage(summary.uuid, disk.target);
  if (!usage.ok()) {
    if (facts.chain.empty()) facts.image_error = usage.status();
    return facts;
  }
  if (facts.chain.empty()) {
    facts.usage = *usage;
  } else {
    facts.usage.capacity = usage->capacity;  // a format whose header we do not read
  }
  return facts;
}

Blocker StateBlocker(DomainState state) {
  if (state == DomainState::kPaused) return {Reason::kPaused, ""};
  return {Reason::kNotRunning, std::string(Name(state))};
}

absl::Status NoSuchDomain(const std::string& name, const std::vector<DomainSummary>& all,
                          const std::string& uri) {
  std::vector<std::string> names;
  for (const DomainSummary& domain : all) names.push_back(domain.name);
  const auto nearest = NearestWord(name, names);
  const std::string guess =
      nearest ? absl::StrCat(": did you mean '", Printable(*nearest), "'?") : "";
  return absl::NotFoundError(
      absl::StrCat("no domain '", Printable(name), "' on '", uri, "'", guess));
}

// Where the guest is free, per target; only of disks of which every filesystem tells. Other verbs
// wait for this domain meanwhile, and a guest may name thousands of filesystems, so all of it has
// one limit of time and one of size.
class FreeMapReader {
 public:
  FreeMapReader(const Services& services, GuestAgent& agent, const GuestFacts& guest,
                const std::map<std::string, std::string>& matches, const std::stop_token& stop)
      : services_(services), agent_(agent), guest_(guest), matches_(matches), stop_(stop) {}

  std::map<std::string, std::vector<Range>> Read(const DomainFacts& facts) {
    std::map<std::string, std::vector<Range>> free;
    for (const DiskFacts& disk : facts.disks) {
      if (!disk.guest || disk.chain.empty()) continue;
      if (auto ranges = ReadDisk(disk)) free[disk.xml.target] = *std::move(ranges);
    }
    return free;
  }

 private:
  static constexpr absl::Duration kPatience = absl::Seconds(60);  // it may read from the disk
  static constexpr size_t kMaxRanges = size_t{1} << 20;           // 16 MiB
  static constexpr uint64_t kLeastRun = 4096;

  bool IsOn(const std::vector<std::string>& disks, const std::string& target) const {
    return std::any_of(disks.begin(), disks.end(), [&](const std::string& name) {
      const auto match = matches_.find(name);
      return match != matches_.end() && match->second == target;
    });
  }

  std::optional<std::vector<Range>> ReadDisk(const DiskFacts& disk) {
    std::vector<Range> all;
    for (const GuestFilesystem& filesystem : guest_.filesystems) {
      const std::vector<std::string> disks = DisksOf(filesystem);
      if (!IsOn(disks, disk.xml.target)) continue;
      const absl::Duration left = limit_ - services_.now();
      if (disks.size() != 1 || filesystem.mount_points.empty() || left <= absl::ZeroDuration())
        return std::nullopt;
      const auto map =
          agent_.ReadFreeMap(filesystem.mount_points.front(),
                             std::max(disk.chain.front().granularity, kLeastRun), left, stop_);
      if (!map.ok() || map->disk != disks.front()) return std::nullopt;
      ranges_ += map->runs.size();
      if (ranges_ > kMaxRanges) return std::nullopt;
      all.insert(all.end(), map->runs.begin(), map->runs.end());
    }
    std::sort(all.begin(), all.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
    std::vector<Range> joined;
    for (const Range& range : all) {
      if (!joined.empty() && range.begin < joined.back().end) return std::nullopt;  // cannot be
      AppendJoined(joined, range);
    }
    return joined;
  }

  const Services& services_;
  GuestAgent& agent_;
  const GuestFacts& guest_;
  const std::map<std::string, std::string>& matches_;
  const std::stop_token& stop_;
  const absl::Time limit_ = services_.now() + kPatience;
  size_t ranges_ = 0;
};

}  // namespace

const xml::Channel* AgentChannel(const xml::Domain& domain) {
  for (const xml::Channel& channel : domain.channels) {
    if (channel.name == kAgentChannelName) return &channel;
  }
  return nullptr;
}

bool HasSerialController(const xml::Domain& domain) {
  return std::any_of(domain.controllers.begin(), domain.controllers.end(),
                     [](const xml::Controller& c) { return c.type == "virtio-serial"; });
}

absl::StatusOr<std::vector<DomainSummary>> SelectDomains(Hypervisor& hypervisor,
                                                         const std::vector<std::string>& names) {
  VR_ASSIGN_OR_RETURN(std::vector<DomainSummary> all, hypervisor.ListDomains());
  if (names.empty()) {
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    return all;
  }
  std::vector<DomainSummary> selected;
  const auto select = [&](const DomainSummary& domain) {
    const bool twice = std::any_of(selected.begin(), selected.end(),
                                   [&](const DomainSummary& d) { return d.uuid == domain.uuid; });
    if (!twice) selected.push_back(domain);
  };
  for (const std::string& name : names) {
    const auto found = std::find_if(all.begin(), all.end(), [&](const DomainSummary& d) {
      return d.name == name || d.uuid == name;
    });
    if (found != all.end()) {
      select(*found);
      continue;
    }
    std::vector<DomainSummary> matching;
    if (name.find_first_of("*?[") != std::string::npos) {
      std::copy_if(all.begin(), all.end(), std::back_inserter(matching),
                   [&](const auto& d) { return fnmatch(name.c_str(), d.name.c_str(), 0) == 0; });
    }
    if (matching.empty()) return NoSuchDomain(name, all, hypervisor.Uri());
    std::sort(matching.begin(), matching.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    for (const DomainSummary& domain : matching) select(domain);
  }
  return selected;
}

absl::StatusOr<DomainFacts> CollectDomain(const Services& services, const DomainSummary& summary,
                                          Hypervisor::Xml kind) {
  DomainFacts facts;
  facts.summary = summary;
  VR_ASSIGN_OR_RETURN(const std::string text, services.hypervisor.DomainXml(summary.uuid, kind));
  VR_ASSIGN_OR_RETURN(facts.live, xml::ParseDomain(text));
  for (const xml::Disk& disk : facts.live.disks)
    facts.disks.push_back(CollectDisk(services, summary, disk));
  return facts;
}

ImageStorage StorageOf(const Services& services, const DiskFacts& disk) {
  xml::ImageSource source = disk.xml.source;
  if (!disk.chain.empty()) source.path = DataPath(disk.chain.front());
  const bool is_path = source.type == "file" || source.type == "block";
  if (is_path && !source.path.empty() && services.hypervisor.ImagesAreLocal())
    return services.images.Storage(source);
  ImageStorage storage;
  storage.unknown = source.path.empty() ? "there is no image" : "not on this machine";
  return storage;
}

std::optional<Blocker> AgentObstacle(const DomainFacts& domain) {
  if (domain.summary.state != DomainState::kRunning) return StateBlocker(domain.summary.state);
  const xml::Channel* channel = AgentChannel(domain.live);
  if (channel == nullptr)
    return Blocker{HasSerialController(domain.live) ? Reason::kNoPort : Reason::kNoController, ""};
  if (channel->state == "disconnected") return Blocker{Reason::kAgentNotConnected, ""};
  return std::nullopt;
}

AgentAccess OpenAgent(const Services& services, const DomainFacts& domain, DomainLock::Use use,
                      absl::Duration timeout, std::stop_token stop) {
  if (auto obstacle = AgentObstacle(domain)) return {std::nullopt, std::move(obstacle)};
  auto lock = LockDomain(services, domain.summary.uuid, use, stop);
  if (!lock.ok()) return {std::nullopt, AgentBlocker(lock.status())};
  AgentAccess access = OpenAgentLocked(services, domain, timeout, std::move(stop));
  if (access.session) access.session->lock = *std::move(lock);
  return access;
}

AgentAccess OpenAgentLocked(const Services& services, const DomainFacts& domain,
                            absl::Duration timeout, std::stop_token stop) {
  if (auto obstacle = AgentObstacle(domain)) return {std::nullopt, std::move(obstacle)};
  const xml::Channel& channel = *AgentChannel(domain.live);
  auto port =
      services.hypervisor.OpenChannel(domain.summary.uuid, kAgentChannelName, channel.socket);
  if (!port.ok()) return {std::nullopt, AgentBlocker(port.status())};
  auto agent = services.connect_agent(*std::move(port), timeout, std::move(stop));
  if (agent.ok()) return {AgentSession{std::nullopt, *std::move(agent)}, std::nullopt};
  // libvirt tells no state for a channel plugged into a running domain until something opens it in
  // the guest.
  const bool never_opened = channel.state.empty() && absl::IsDeadlineExceeded(agent.status());
  return {std::nullopt,
          never_opened ? Blocker{Reason::kAgentNotConnected, ""} : AgentBlocker(agent.status())};
}

std::optional<Blocker> AskGuestUse(const Services& services, DomainFacts& facts, GuestUse use,
                                   absl::Duration timeout, const std::stop_token& stop) {
  std::map<std::string, std::vector<Range>> free;
  {
    AgentAccess access = OpenAgent(services, facts, DomainLock::Use::kLook, timeout, stop);
    if (!access.session) {
      if (access.blocker->reason == Reason::kNotRunning) return std::nullopt;
      return access.blocker;
    }
    auto filesystems = access.session->agent->ListFilesystems(kListingTimeout, stop);
    if (!filesystems.ok()) return AgentBlocker(filesystems.status());
    GuestFacts guest;
    guest.filesystems = *std::move(filesystems);
    const auto matches = MatchGuestDisks(facts.live, guest);
    const auto by_target = GuestUseByTarget(matches, guest);
    for (DiskFacts& disk : facts.disks) {
      if (const auto found = by_target.find(disk.xml.target); found != by_target.end())
        disk.guest = found->second;
    }
    if (use == GuestUse::kExact)
      free = FreeMapReader(services, *access.session->agent, guest, matches, stop).Read(facts);
  }
  for (DiskFacts& disk : facts.disks) {
    const auto found = free.find(disk.xml.target);
    if (found == free.end()) continue;
    const auto bytes = services.images.AllocatedWithin(disk.chain.front(), found->second, stop);
    if (!bytes.ok()) continue;
    // On a filesystem that compresses, the image's extents are longer than what they occupy.
    const ImageFile& top = disk.chain.front();
    disk.free_and_allocated = std::min(*bytes, top.usage.allocation.value_or(*bytes));
  }
  return std::nullopt;
}

Blocker AgentBlocker(const absl::Status& status) {
  const std::string message = Printable(status.message());
  if (absl::IsAborted(status)) return {Reason::kBusy, message};
  if (absl::IsDeadlineExceeded(status)) return {Reason::kAgentSilent, message};
  return {Reason::kAgentFailed, message};
}

bool IsAgentFailure(const Blocker& blocker) {
  return blocker.reason == Reason::kAgentSilent || blocker.reason == Reason::kAgentFailed;
}

absl::Status AgentFailure(const Blocker& blocker) {
  return absl::UnavailableError(absl::StrCat(Sentence(blocker.reason), ": ", blocker.detail));
}

void ForEachInParallel(size_t count, size_t threads, const std::function<void(size_t)>& work) {
  std::atomic<size_t> next = 0;
  const auto run = [&] {
    for (size_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::jthread> pool;
  for (size_t i = 1; i < std::min(threads, count); ++i) pool.emplace_back(run);
  run();
}

}  // namespace virt_reclaim
