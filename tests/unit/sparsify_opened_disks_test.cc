#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "host/sparsify/opened_disks.h"

namespace virt_reclaim::sparsify {
namespace {

using testing::ElementsAre;

// Writes down when it was finished, and when it went.
class FakeDisk final : public OpenedDisk {
 public:
  FakeDisk(std::string name, bool waits, absl::Status end, std::vector<std::string>& log)
      : name_(std::move(name)), waits_(waits), end_(std::move(end)), log_(log) {}
  ~FakeDisk() override { log_.push_back(absl::StrCat(name_, " gone")); }

  freemap::WorkerDisk worker_disk() const override { return {}; }
  const DiskFacts& facts() const override { return facts_; }
  absl::Status Seize() override { return absl::OkStatus(); }
  absl::StatusOr<AllocationMap> Allocated() override { return AllocationMap{}; }
  bool Wanted() override { return false; }
  bool OpenerWaits() const override { return waits_; }
  absl::Status Free(Range /*range*/) override { return absl::OkStatus(); }
  absl::Status Finish() override {
    log_.push_back(absl::StrCat(name_, " finished"));
    return end_;
  }
  std::optional<uint64_t> Allocation() override { return std::nullopt; }

 private:
  const std::string name_;
  const bool waits_;
  const absl::Status end_;
  std::vector<std::string>& log_;
  DiskFacts facts_;
};

class OpenedDisksTest : public testing::Test {
 protected:
  void Add(OpenedDisks& disks, std::string name, bool waits, absl::Status end = absl::OkStatus()) {
    disks.Add(std::make_unique<FakeDisk>(std::move(name), waits, std::move(end), log_));
  }
  // Whoever starts a guest with the four of them waits for the raw ones.
  void AddFour(OpenedDisks& disks) {
    Add(disks, "raw1", true);
    Add(disks, "qcow1", false);
    Add(disks, "raw2", true);
    Add(disks, "qcow2", false);
  }

  std::vector<std::string> log_;
};

TEST_F(OpenedDisksTest, ALeaseIsLetGoLast) {
  OpenedDisks disks;
  AddFour(disks);
  EXPECT_TRUE(disks.Finish().ok());
  EXPECT_THAT(log_,
              ElementsAre("qcow1 finished", "qcow2 finished", "raw1 finished", "raw2 finished"));
  EXPECT_EQ(disks.size(), 4u);
  EXPECT_TRUE(disks[2].OpenerWaits());
}

// After an error nothing is finished: the images are let go all the same.
TEST_F(OpenedDisksTest, AlsoWhereNothingWasDone) {
  {
    OpenedDisks disks;
    AddFour(disks);
  }
  EXPECT_THAT(log_, ElementsAre("qcow1 gone", "qcow2 gone", "raw1 gone", "raw2 gone"));
}

TEST_F(OpenedDisksTest, AFailureKeepsNoneOfTheOthers) {
  OpenedDisks disks;
  Add(disks, "raw", true, absl::DataLossError("raw"));
  Add(disks, "qcow1", false, absl::InternalError("qcow1"));
  Add(disks, "qcow2", false);
  EXPECT_EQ(disks.Finish(), absl::InternalError("qcow1"));
  EXPECT_THAT(log_, ElementsAre("qcow1 finished", "qcow2 finished", "raw finished"));
}

}  // namespace
}  // namespace virt_reclaim::sparsify
