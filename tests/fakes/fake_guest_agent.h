// The fake twin of a guest's agent: it does what its FakeAgent says.
#ifndef VIRT_RECLAIM_TESTS_FAKES_FAKE_GUEST_AGENT_H_
#define VIRT_RECLAIM_TESTS_FAKES_FAKE_GUEST_AGENT_H_

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {

class FakeGuestAgent : public GuestAgent {
 public:
  FakeGuestAgent(FakeWorld& world, const FakeAgent& agent) : world_(world), agent_(agent) {}

  absl::StatusOr<GuestFacts> GetInfo(absl::Duration, std::stop_token) override {
    return agent_.facts;
  }

  absl::StatusOr<std::vector<GuestFilesystem>> ListFilesystems(absl::Duration timeout,
                                                               std::stop_token) override {
    if (agent_.while_listing) agent_.while_listing();
    world_.Sleep(std::min(agent_.listing_takes, timeout));
    if (agent_.listing_takes > timeout)
      return absl::DeadlineExceededError("ListFilesystems: no answer in time");
    if (!agent_.list.ok()) return agent_.list;
    return agent_.facts.filesystems;
  }

  absl::StatusOr<GuestPreflight> Preflight(absl::Duration, std::stop_token) override {
    return agent_.preflight;
  }

  absl::StatusOr<GuestFix> FixGuest(GuestFixAction action, absl::Duration,
                                    std::stop_token) override {
    if (!agent_.fix) return absl::UnimplementedError("FixGuest: an older agent");
    world_.MayCrash();
    auto fix = agent_.fix(action);
    world_.MayCrash();
    return fix;
  }

  absl::Status Trim(const GuestTrimOptions& options, absl::Duration timeout, std::stop_token stop,
                    const std::function<void(const GuestTrimProgress&)>& progress,
                    std::vector<GuestTrim>& finished) override {
    world_.NoteTrim(options);
    if (agent_.while_trimming) agent_.while_trimming();
    world_.beats.Tick();
    if (agent_.pieces > 0) return TrimByPieces(options, timeout, stop, progress, finished);
    for (int i = 0; agent_.waits_for_stop && i < 1000 && !stop.stop_requested(); ++i)
      absl::SleepFor(absl::Milliseconds(10));
    for (const GuestTrim& trim : agent_.trims) {
      if (progress && !agent_.tells_no_progress)
        progress({trim.mount_point, trim.trimmed, trim.trimmed, trim.trimmed});
      finished.push_back(trim);
    }
    for (const auto& [path, bytes] : agent_.freed) {
      Usage& usage = world_.images.at(path);
      usage.allocation = *usage.allocation - bytes;
    }
    if (agent_.takes > timeout) {
      world_.Sleep(timeout);
      return absl::DeadlineExceededError("Trim: no answer in time");
    }
    world_.Sleep(agent_.takes);
    if (stop.stop_requested()) return absl::CancelledError("Trim: interrupted");
    return agent_.trim;
  }

  absl::Status SetTrimPause(absl::Duration least_pause, absl::Duration) override {
    if (!world_.knows_trim_pause) return absl::UnimplementedError("SetTrimPause: an older agent");
    world_.trim_pauses.push_back(least_pause);
    return absl::OkStatus();
  }

  absl::StatusOr<GuestFreeMap> ReadFreeMap(const std::string& mount_point, uint64_t, absl::Duration,
                                           std::stop_token) override {
    world_.Sleep(agent_.free_map_takes);
    const auto map = agent_.free_maps.find(mount_point);
    if (map == agent_.free_maps.end()) return absl::FailedPreconditionError("no such map");
    return map->second;
  }

  absl::StatusOr<GuestMarker> WriteMarker(const std::string& mount_point, uint64_t size,
                                          absl::Duration, std::stop_token) override {
    const auto image = agent_.image_of.find(mount_point);
    if (image == agent_.image_of.end()) return absl::UnimplementedError("WriteMarker: too old");
    const auto most = agent_.most_marker.find(mount_point);
    if (most != agent_.most_marker.end() && size > most->second)
      return absl::FailedPreconditionError("too little is free on the filesystem for a marker");
    Grow(image->second, static_cast<int64_t>(size));
    if (GuestFilesystem* holder = HolderOf(mount_point)) holder->used += size;
    GuestMarker marker;
    marker.size = size;
    marker.extents = agent_.marker_extents;
    marker.disk = agent_.marker_disk;
    for (const GuestMarker::Extent& extent : marker.extents)
      world_.allocated[image->second].push_back({extent.offset, extent.offset + extent.length});
    return marker;
  }

  absl::StatusOr<GuestMarkerDiscard> DiscardMarker(const std::string& mount_point,
                                                   const GuestMarker& marker, absl::Duration,
                                                   std::stop_token) override {
    if (agent_.while_discarding) agent_.while_discarding();
    const std::string& image = agent_.image_of.at(mount_point);
    if (GuestFilesystem* holder = HolderOf(mount_point)) {
      if (agent_.file_gets_holes) holder->used -= marker.size;
      if (agent_.file_gets_holes && holder->discard_option == true)
        Grow(image, -static_cast<int64_t>(marker.size));
      return GuestMarkerDiscard{marker.size, "", false};
    }
    if (agent_.marker_comes_back) {
      Grow(image, -static_cast<int64_t>(marker.size));
      if (!marker.extents.empty()) world_.allocated[image].clear();
    }
    return GuestMarkerDiscard{marker.size, "", false};
  }

 private:
  // One minute each, of all that is behind the start.
  absl::Status TrimByPieces(const GuestTrimOptions& options, absl::Duration timeout,
                            const std::stop_token& stop,
                            const std::function<void(const GuestTrimProgress&)>& progress,
                            std::vector<GuestTrim>& finished) {
    const absl::Time end = world_.Now() + timeout;
    bool begun = !options.start;
    for (const GuestTrim& trim : agent_.trims) {
      uint64_t piece = 0;
      if (!begun) {
        begun = trim.mount_point == options.start->mount_point;
        if (!begun || options.start->after) continue;
        piece = options.start->offset;
      }
      progress({trim.mount_point, piece, agent_.pieces, 0});
      for (; piece < agent_.pieces; ++piece) {
        if (world_.Now() + absl::Minutes(1) > end) {
          world_.Sleep(end - world_.Now());
          return absl::DeadlineExceededError("Trim: no answer in time");
        }
        world_.Sleep(absl::Minutes(1));
        world_.NoteReached(absl::StrCat(trim.mount_point, "#", piece));
        progress({trim.mount_point, piece + 1, agent_.pieces, 0});
        if (agent_.after_piece) agent_.after_piece(piece);
        world_.beats.Tick();
        if (stop.stop_requested()) return absl::CancelledError("Trim: interrupted");
        if (!agent_.after_pieces.ok() && piece + 1 == agent_.pieces) return agent_.after_pieces;
      }
      finished.push_back(trim);
    }
    return absl::OkStatus();
  }

  // Null: the filesystem lies in no file.
  GuestFilesystem* HolderOf(const std::string& mount_point) {
    const auto holder = agent_.holder_of.find(mount_point);
    if (holder == agent_.holder_of.end()) return nullptr;
    for (GuestFilesystem& filesystem : agent_.facts.filesystems) {
      if (filesystem.mount_points.front() == holder->second) return &filesystem;
    }
    return nullptr;
  }

  void Grow(const std::string& path, int64_t bytes) {
    Usage& usage = world_.images.at(path);
    usage.allocation = static_cast<uint64_t>(static_cast<int64_t>(*usage.allocation) + bytes);
  }

  FakeWorld& world_;
  FakeAgent agent_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_FAKES_FAKE_GUEST_AGENT_H_
