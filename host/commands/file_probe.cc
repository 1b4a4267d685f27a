#include "host/commands/file_probe.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/saturating_add.h"
#include "base/status.h"
#include "host/commands/collect.h"

namespace virt_reclaim {
namespace {

// As large as a disk's; such filesystems are often small, and a marker may take a quarter of what
// is free in them.
constexpr uint64_t kFileMarkerBytes = 16 * kMiB;
constexpr uint64_t kSmallFileMarkerBytes = 4 * kMiB;
// A guest can make up a hundred thousand.
constexpr size_t kMostProbedFiles = 8;
constexpr absl::Duration kFileCallTimeout = absl::Minutes(1);
constexpr absl::Duration kTimeOfAllFiles = absl::Minutes(3);
// ext4 that is mounted with 'discard' discards with the commit of its journal, every 5 s.
constexpr absl::Duration kFilePatience = absl::Seconds(15);
constexpr absl::Duration kFileStep = absl::Milliseconds(250);

class FileProber {
 public:
  FileProber(const Services& services, GuestAgent& agent, const FilesystemInFile& file,
             const std::function<absl::StatusOr<uint64_t>()>& allocation,
             const std::stop_token& stop)
      : services_(services), agent_(agent), file_(file), allocation_(allocation), stop_(stop) {}

  ProbedFile Probe() {
    ProbedFile probed;
    probed.mount_point = file_.mount_point;
    probed.holders = file_.holders;
    const absl::Status status = ProbeInto(probed);
    if (!status.ok()) probed.detail = Printable(status.message());
    return probed;
  }

 private:
  // What became of one marker.
  struct Round {
    bool certain = false;  // nobody else's writes and discards are in it
    bool holder = false;
    bool host = false;
    std::string detail;
  };

  absl::Status ProbeInto(ProbedFile& probed) {
    uint64_t size = kFileMarkerBytes;
    auto first = Measure(size);
    if (absl::IsFailedPrecondition(first.status())) {
      size = kSmallFileMarkerBytes;
      first = Measure(size);
    }
    VR_RETURN_IF_ERROR(first.status());
    if (!first->certain) {
      // Whatever else the guest writes or frees is measured, too: by chance it looks right once,
      // hardly twice.
      VR_ASSIGN_OR_RETURN(const Round second, Measure(size));
      if (second.holder != first->holder || second.host != first->host) {
        return absl::UnavailableError(
            "two measurements do not agree: the guest writes to or frees on what holds its file");
      }
    }
    probed.reaches_holder = first->holder;
    probed.reaches_host = first->host;
    probed.detail = first->detail;
    return absl::OkStatus();
  }

  absl::StatusOr<Round> Measure(uint64_t size) {
    VR_RETURN_IF_ERROR(allocation_().status());  // no marker for nothing
    VR_ASSIGN_OR_RETURN(const GuestMarker marker,
                        agent_.WriteMarker(file_.mount_point, size, kFileCallTimeout, stop_));
    const auto used = UsedOfHolders();
    const auto allocated = allocation_();
    // Whatever was measured, and whoever wants to stop: the marker has to go.
    VR_ASSIGN_OR_RETURN(const GuestMarkerDiscard discarded,
                        agent_.DiscardMarker(file_.mount_point, marker, kFileCallTimeout, {}));
    VR_RETURN_IF_ERROR(used.status());
    VR_RETURN_IF_ERROR(allocated.status());
    Round round;
    if (!discarded.error_name.empty()) {
      round.certain = true;
      round.detail = absl::StrCat("the guest cannot trim it: ", discarded.error_name);
      return round;
    }
    const uint64_t enough = size / 10 * 9;
    uint64_t in_holder = 0;
    uint64_t on_host = 0;
    for (const absl::Time limit = services_.now() + kFilePatience;;) {
      VR_ASSIGN_OR_RETURN(const uint64_t used_now, UsedOfHolders());
      VR_ASSIGN_OR_RETURN(const uint64_t allocated_now, allocation_());
      in_holder = std::max(in_holder, *used - std::min(*used, used_now));
      on_host = std::max(on_host, *allocated - std::min(*allocated, allocated_now));
      round.holder = in_holder >= enough;
      round.host = on_host >= enough;
      // What is not mounted with 'discard' is not waited for.
      if (round.holder && (round.host || !file_.holders_discard)) break;
      if (services_.now() >= limit) break;
      if (stop_.stop_requested()) return absl::CancelledError("interrupted");
      services_.sleep(kFileStep);
    }
    if (round.holder && round.host) return round;
    round.detail =
        absl::StrCat("of a marker of ", FormatByteSize(size), " ", HoldersText(), " got back ",
                     FormatByteSize(in_holder), " and the host ", FormatByteSize(on_host));
    return round;
  }

  std::string HoldersText() const { return Printable(absl::StrJoin(file_.holders, ", ")); }

  // Bytes, by the guest's word. NotFound: one is not mounted any more.
  absl::StatusOr<uint64_t> UsedOfHolders() {
    VR_ASSIGN_OR_RETURN(const std::vector<GuestFilesystem> filesystems,
                        agent_.ListFilesystems(kListingTimeout, {}));
    uint64_t used = 0;
    for (const std::string& holder : file_.holders) {
      const auto found = std::find_if(
          filesystems.begin(), filesystems.end(), [&](const GuestFilesystem& filesystem) {
            return !filesystem.mount_points.empty() && filesystem.mount_points.front() == holder;
          });
      if (found == filesystems.end())
        return absl::NotFoundError(absl::StrCat("'", holder, "' is not mounted any more"));
      used = SaturatingAdd(used, found->used);
    }
    return used;
  }

  const Services& services_;
  GuestAgent& agent_;
  const FilesystemInFile& file_;
  const std::function<absl::StatusOr<uint64_t>()>& allocation_;
  const std::stop_token& stop_;
};

}  // namespace

std::vector<ProbedFile> ProbeFiles(const Services& services, GuestAgent& agent,
                                   const std::vector<FilesystemInFile>& files,
                                   const std::function<absl::StatusOr<uint64_t>()>& allocation,
                                   const std::stop_token& stop) {
  const absl::Time limit = services.now() + kTimeOfAllFiles;
  std::vector<ProbedFile> probed;
  for (const FilesystemInFile& file : files) {
    if (probed.size() < kMostProbedFiles && services.now() < limit && !stop.stop_requested()) {
      probed.push_back(FileProber(services, agent, file, allocation, stop).Probe());
      continue;
    }
    probed.push_back({file.mount_point, file.holders, std::nullopt, std::nullopt,
                      "not tried: too many of them, or too slow"});
    if (probed.size() > kMostProbedFiles) break;
  }
  return probed;
}

}  // namespace virt_reclaim
