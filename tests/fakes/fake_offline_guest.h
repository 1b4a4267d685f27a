// The fake twin of the reader of guests that are off: each domain tells what its disks say.
#ifndef VIRT_RECLAIM_TESTS_FAKES_FAKE_OFFLINE_GUEST_H_
#define VIRT_RECLAIM_TESTS_FAKES_FAKE_OFFLINE_GUEST_H_

#include "tests/fakes/fake_world.h"

namespace virt_reclaim {

// Tells what the domain says that has the first disk.
class FakeOfflineGuest : public OfflineGuest {
 public:
  explicit FakeOfflineGuest(FakeWorld& world) : world_(world) {}

  absl::StatusOr<GuestPreflight> Read(const std::vector<OfflineDisk>& disks, absl::Duration,
                                      const std::stop_token& stop) override {
    if (!world_.has_offline_guest) return absl::UnimplementedError("not installed");
    world_.disks_read = disks;
    if (world_.while_reading) world_.while_reading();
    if (stop.stop_requested()) return absl::CancelledError("stopped");
    for (const auto& [uuid, domain] : world_.domains) {
      if (domain.inactive_xml.find(disks.at(0).path) != std::string::npos) return domain.offline;
    }
    return absl::FailedPreconditionError("no such disk");
  }

  absl::StatusOr<std::vector<absl::Status>> Trim(const std::vector<OfflineDisk>&,
                                                 const std::vector<OfflineJob>& jobs,
                                                 absl::Duration, const std::stop_token&) override {
    if (!world_.has_offline_guest) return absl::UnimplementedError("not installed");
    if (world_.while_reading) world_.while_reading();
    for (const OfflineJob& job : jobs)
      world_.calls.push_back((job.zero ? "zero " : "trim ") + job.device);
    return std::vector<absl::Status>(jobs.size());
  }

 private:
  FakeWorld& world_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_FAKES_FAKE_OFFLINE_GUEST_H_
