// sparsify over the fake world: an engine that finds what a test says, and images that are files.
#ifndef VIRT_RECLAIM_TESTS_UNIT_SPARSIFY_FIXTURE_H_
#define VIRT_RECLAIM_TESTS_UNIT_SPARSIFY_FIXTURE_H_

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_replace.h"
#include "base/byte_size.h"
#include "host/commands/sparsify_images.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {

// One ext4 in a partition of one disk.
inline sparsify::SparsifyResult FoundExt4(uint64_t reclaimable, uint64_t given, uint64_t freed) {
  sparsify::SparsifyResult result;
  sparsify::DiskResult& disk = result.disks.emplace_back();
  disk.size_bytes = kGiB;
  disk.before = 600 * kMiB;
  disk.after = 600 * kMiB - freed;
  disk.reclaimable_bytes = reclaimable;
  disk.given_back_bytes = given;
  sparsify::FilesystemResult& filesystem = result.filesystems.emplace_back();
  filesystem.found.type = "ext4";
  filesystem.found.place = "partition 1";
  filesystem.reclaimable_bytes = reclaimable;
  return result;
}

inline sparsify::SparsifyResult RefusedOne(const std::string& type, freemap::Refusal refusal) {
  sparsify::SparsifyResult result = FoundExt4(0, 0, 0);
  result.filesystems[0].found.type = type;
  result.filesystems[0].found.refusal = refusal;
  return result;
}

class SparsifyImagesTest : public testing::Test {
 protected:
  SparsifyImagesTest() {
    world_.AddImage("/images/a.raw", kGiB, 600 * kMiB);
    world_.sparsify = FoundExt4(500 * kMiB, 500 * kMiB, 490 * kMiB);
  }
  ~SparsifyImagesTest() override {
    for (const std::string& path : files_) unlink(path.c_str());
  }
  // An image that is there: some things go by what the file is.
  std::string AddFile() {
    std::string path = testing::TempDir() + "vr-sparsify-XXXXXX";
    const int fd = mkstemp(path.data());
    EXPECT_GE(fd, 0);
    close(fd);
    world_.AddImage(path, kGiB, 600 * kMiB);
    files_.push_back(path);
    return path;
  }
  FakeDomain& AddDomain(DomainState state) {
    return world_.AddDomain(
        DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", "/images/a.raw", ""}}, ""), state);
  }
  // One that is off, with a qcow2 image as its disk.
  FakeDomain& AddOverQcow2(const std::string& name, const std::string& uuid,
                           const std::string& path) {
    return world_.AddDomain(
        absl::StrReplaceAll(DomainXml(name, uuid, "pc-q35-7.2", {{"vda", "virtio", path, ""}}, ""),
                            {{"type='raw'", "type='qcow2'"}}),
        DomainState::kShutOff);
  }
  std::vector<SparsifiedTarget> Run(const SparsifyImagesOptions& options,
                                    sparsify::Mode mode = sparsify::Mode::kSparsify) {
    const Services services = world_.services();
    const auto actions = PlanSparsify(services, options, {});
    EXPECT_TRUE(actions.ok()) << actions.status();
    if (!actions.ok()) return {};
    return ExecuteSparsify(services, options, *actions, mode, {}, {});
  }
  // Of the domain web.
  Outcome RunOne(SparsifyImagesOptions options = {}) {
    options.targets = {"web"};
    const auto targets = Run(options);
    EXPECT_EQ(targets.size(), 1u);
    return targets.empty() ? Outcome{} : targets[0].outcome;
  }
  static std::vector<Reason> Reasons(const Outcome& outcome) {
    std::vector<Reason> reasons;
    for (const Blocker& blocker : outcome.reasons) reasons.push_back(blocker.reason);
    return reasons;
  }

  FakeWorld world_;

 private:
  std::vector<std::string> files_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_UNIT_SPARSIFY_FIXTURE_H_
