// Real filesystems on loop devices over sparse files: a loop device passes discards on as holes, so
// what a trim really did shows in the file's allocation. Needs root and what it makes filesystems
// with; skips (77) where it may not or cannot. Every device and mount is the test's own and is
// taken away again.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "guest-agent/filesystems.h"
#include "guest-agent/free_map.h"
#include "guest-agent/marker.h"
#include "guest-agent/ranges.h"
#include "guest-agent/trimmer.h"
#include "tests/unit/agent_fixtures.h"

namespace virt_reclaim::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::string why_not;  // set: every test skips

struct RunResult {
  int status = -1;
  std::string output;  // stdout and stderr
};
RunResult Shell(const std::string& command) {
  RunResult result;
  FILE* pipe = popen(absl::StrCat(command, " 2>&1").c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  for (size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    result.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  return result;
}

uint64_t Allocated(const std::string& path) {
  struct stat status = {};
  return stat(path.c_str(), &status) == 0 ? static_cast<uint64_t>(status.st_blocks) * 512 : 0;
}

// One loop device over a sparse file, with a filesystem mounted at `mount_point`.
class LoopFilesystem {
 public:
  LoopFilesystem(const std::string& directory, const std::string& type, uint64_t size,
                 const std::string& mkfs_options = "")
      : image_(directory + "/image"), mount_point_(directory + "/mnt"), type_(type) {
    mkdir(mount_point_.c_str(), 0755);
    UniqueFd file(open(image_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(size)), 0);
    const RunResult made = Shell(absl::StrCat("mkfs.", type, " -q ", mkfs_options, " ", image_));
    EXPECT_EQ(made.status, 0) << made.output;
    const UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    // Another test may take the number in between: then the next one.
    for (int tries = 0; tries < 20 && device_.empty(); ++tries) {
      const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
      const std::string node = absl::StrCat("/dev/loop", number);
      UniqueFd loop(open(node.c_str(), O_RDWR | O_CLOEXEC));
      // AUTOCLEAR: the kernel detaches it with its last user, whatever becomes of this test.
      loop_config config = {};
      config.fd = static_cast<uint32_t>(file.get());
      config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
      if (!loop.valid() || ioctl(loop.get(), LOOP_CONFIGURE, &config) != 0) continue;
      device_ = node;
      if (mount(device_.c_str(), mount_point_.c_str(), type_.c_str(), 0, nullptr) != 0)
        device_.clear();
    }
    EXPECT_FALSE(device_.empty()) << "no loop device could be mounted";
  }
  ~LoopFilesystem() { umount2(mount_point_.c_str(), MNT_DETACH); }
  LoopFilesystem(const LoopFilesystem&) = delete;
  LoopFilesystem& operator=(const LoopFilesystem&) = delete;

  const std::string& image() const { return image_; }
  const std::string& mount_point() const { return mount_point_; }
  const std::string& device() const { return device_; }
  bool ok() const { return !device_.empty(); }

  // Writes `mebibytes` in files of 4 MiB, keeps each fourth, deletes the others.
  void WriteAndDelete(int mebibytes) const {
    const std::string block(4 << 20, 'x');
    for (int i = 0; i < mebibytes / 4; ++i) {
      std::ofstream(absl::StrCat(mount_point_, "/f", i), std::ios::binary) << block;
    }
    SyncAll();
    for (int i = 0; i < mebibytes / 4; ++i) {
      if (i % 4 != 0) unlink(absl::StrCat(mount_point_, "/f", i).c_str());
    }
    SyncAll();
  }
  void SyncAll() const {
    const UniqueFd fd(open(mount_point_.c_str(), O_RDONLY | O_CLOEXEC));
    syncfs(fd.get());
  }
  // When it has come to rest: since Linux 6.6 XFS returns from FITRIM before its discards are done.
  uint64_t AllocatedAtRest() const {
    SyncAll();
    const UniqueFd fd(open(image_.c_str(), O_RDONLY | O_CLOEXEC));
    fsync(fd.get());
    uint64_t last = Allocated(image_);
    for (int same = 0, tries = 0; same < 5 && tries < 100; ++tries) {
      usleep(50000);
      const uint64_t now = Allocated(image_);
      same = now == last ? same + 1 : 0;
      last = now;
    }
    return last;
  }

 private:
  std::string image_;
  std::string mount_point_;
  std::string type_;
  std::string device_;
};

struct RealFilesystemsTest : ::testing::TestWithParam<const char*> {
  void SetUp() override {
    if (!why_not.empty()) GTEST_SKIP() << why_not;
  }
  static std::string Mkfs(const std::string& type) {
    return type == "ext4" ? "-E nodiscard" : "-K";
  }
  static RunResult Agent(const std::string& arguments) {
    return Shell(absl::StrCat(VIRT_RECLAIM_AGENT_PROGRAM, " ", arguments));
  }
  TempTree tree;
};

class Recorder final : public TrimObserver {
 public:
  void OnStarted(const TrimTarget& /*target*/, uint32_t /*index*/, uint32_t /*count*/) override {}
  void OnProgress(const TrimTarget& /*target*/, uint32_t /*index*/,
                  const FitrimProgress& /*progress*/) override {}
  void OnFinished(const TrimTarget& /*target*/, uint32_t /*index*/,
                  const TrimFinished& done) override {
    finished.push_back(done);
  }
  std::vector<TrimFinished> finished;
};

TrimFinished TrimIt(const LoopFilesystem& filesystem, const TrimOptions& options = {}) {
  const auto list = ReadFilesystems(RealProbes());
  EXPECT_TRUE(list.ok());
  const auto targets = ChooseTargets(*list, {filesystem.mount_point()});
  EXPECT_TRUE(targets.ok()) << targets.status();
  if (!targets.ok()) return {};
  Recorder recorder;
  TrimAll(*targets, options, recorder, {});
  EXPECT_THAT(recorder.finished, SizeIs(1));
  return recorder.finished.at(0);
}

// The end-to-end probe, as a host sees it: the marker is where the guest says, and then it is gone.
TEST_P(RealFilesystemsTest, MarkerIsInTheImageAndThenIsNot) {
  const std::string type = GetParam();
  const LoopFilesystem filesystem(tree.path(), type, 512 * kMiB, Mkfs(type));
  ASSERT_TRUE(filesystem.ok());
  const auto list = ReadFilesystems(RealProbes());
  ASSERT_TRUE(list.ok()) << list.status();
  const auto targets = ChooseTargets(*list, {filesystem.mount_point()});
  ASSERT_TRUE(targets.ok()) << targets.status();
  const auto marker = WriteMarker(targets->front(), 16 * kMiB, {});
  ASSERT_TRUE(marker.ok()) << marker.status();
  const uint64_t with = filesystem.AllocatedAtRest();
  EXPECT_EQ(marker->extents_known, type != "btrfs");
  const UniqueFd image(open(filesystem.image().c_str(), O_RDONLY | O_CLOEXEC));
  for (const MarkerExtent& extent : marker->extents) {
    std::string id(kMarkerIdBytes, '\0');
    ASSERT_EQ(pread(image.get(), id.data(), id.size(), static_cast<off_t>(extent.offset_bytes)),
              ssize_t{kMarkerIdBytes});
    EXPECT_EQ(id, marker->id);
  }
  const auto discarded = DiscardMarker(targets->front(), marker->id, {}, KernelFitrim);
  ASSERT_TRUE(discarded.ok()) << discarded.status();
  EXPECT_EQ(discarded->error_number, 0);
  EXPECT_LE(filesystem.AllocatedAtRest() + 15 * kMiB, with);
  EXPECT_EQ(RemoveLeftMarkers({{targets->front().filesystem}, false}), 0U);
}

// A filesystem that frees the marker's blocks a moment after it has written its journal.
TEST_P(RealFilesystemsTest, MarkerThatIsFreedLateIsTrimmedAgain) {
  const std::string type = GetParam();
  const LoopFilesystem filesystem(tree.path(), type, 512 * kMiB, Mkfs(type));
  ASSERT_TRUE(filesystem.ok());
  const auto list = ReadFilesystems(RealProbes());
  ASSERT_TRUE(list.ok()) << list.status();
  const auto targets = ChooseTargets(*list, {filesystem.mount_point()});
  ASSERT_TRUE(targets.ok()) << targets.status();
  const auto marker = WriteMarker(targets->front(), 16 * kMiB, {});
  ASSERT_TRUE(marker.ok()) << marker.status();
  const uint64_t with = filesystem.AllocatedAtRest();
  static int* const calls =
      static_cast<int*>(mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0));  // the child's and ours
  ASSERT_NE(calls, MAP_FAILED);
  *calls = 0;
  const auto late = [](int fd, uint64_t start, uint64_t& length, uint64_t minimum) {
    if (++*calls > 2) return KernelFitrim(fd, start, length, minimum);
    length = 4096;
    return 0;
  };
  const auto discarded = DiscardMarker(targets->front(), marker->id, {}, late);
  ASSERT_TRUE(discarded.ok()) << discarded.status();
  // How much of it btrfs has trimmed nobody can tell: it trims all that is free.
  if (type == "btrfs") {
    EXPECT_EQ(*calls, 1);
    return;
  }
  EXPECT_EQ(*calls, 3);
  EXPECT_GE(discarded->trimmed_bytes, 16 * kMiB);
  EXPECT_LE(filesystem.AllocatedAtRest() + 15 * kMiB, with);
}

// Holes punched where the kernel calls it free: as much goes as a trim would free, and nothing is
// missed.
TEST_P(RealFilesystemsTest, TheFreeMapIsWhatCanGo) {
  const std::string type = GetParam();
  const LoopFilesystem filesystem(tree.path(), type, kGiB, Mkfs(type));
  ASSERT_TRUE(filesystem.ok());
  filesystem.WriteAndDelete(256);
  const uint64_t before = filesystem.AllocatedAtRest();
  UniqueFd mounted(open(filesystem.mount_point().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat status = {};
  ASSERT_EQ(fstat(mounted.get(), &status), 0);
  const auto free = ReadFreeRuns(mounted.get(), status.st_dev, 4096, {});
  if (type == "btrfs") {
    EXPECT_EQ(free.status().code(), absl::StatusCode::kFailedPrecondition) << free.status();
    return;
  }
  ASSERT_TRUE(free.ok()) << free.status();
  const std::string sums = Shell("cd " + filesystem.mount_point() + " && sha256sum f*").output;
  mounted.Reset();
  ASSERT_EQ(umount(filesystem.mount_point().c_str()), 0);
  const UniqueFd image(open(filesystem.image().c_str(), O_RDWR | O_CLOEXEC));
  for (const FreeRun& run : free->runs) {
    ASSERT_EQ(fallocate(image.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        static_cast<off_t>(run.offset_bytes), static_cast<off_t>(run.length_bytes)),
              0);
  }
  ASSERT_EQ(fsync(image.get()), 0);
  const uint64_t after = Allocated(filesystem.image());
  printf("%s: %zu runs, %lu bytes went\n", type.c_str(), free->runs.size(), before - after);
  EXPECT_GE(before - after, 180 * kMiB);
  const RunResult fsck =
      Shell((type == "ext4" ? "e2fsck -fn " : "xfs_repair -n ") + filesystem.image());
  EXPECT_EQ(fsck.status, 0) << fsck.output;
  ASSERT_EQ(Shell("mount -o loop " + filesystem.image() + " " + filesystem.mount_point()).status,
            0);
  EXPECT_EQ(Shell("cd " + filesystem.mount_point() + " && sha256sum f*").output, sums);
}

TEST_P(RealFilesystemsTest, FreesWhatUtilLinuxFrees) {
  const std::string type = GetParam();
  uint64_t freed[2] = {};
  for (const bool ours : {false, true}) {
    const TempTree own;
    const LoopFilesystem filesystem(own.path(), type, 2 * kGiB, Mkfs(type));
    ASSERT_TRUE(filesystem.ok());
    filesystem.WriteAndDelete(256);
    const uint64_t before = filesystem.AllocatedAtRest();
    if (ours) {
      const TrimFinished finished = TrimIt(filesystem);
      EXPECT_EQ(finished.result, TrimResult::kDone) << finished.error_number;
      EXPECT_GE(finished.progress.trimmed_bytes, 190 * kMiB);
      EXPECT_LE(finished.progress.trimmed_bytes, 2 * kGiB + 64 * kMiB);  // never more than there is
    } else {
      const RunResult fstrim = Shell("fstrim " + filesystem.mount_point());
      ASSERT_EQ(fstrim.status, 0) << fstrim.output;
    }
    const uint64_t after = filesystem.AllocatedAtRest();
    freed[ours ? 1 : 0] = before > after ? before - after : 0;
  }
  printf("%s: freed by fstrim %lu, by us %lu bytes\n", type.c_str(), freed[0], freed[1]);
  EXPECT_GE(freed[0], 180 * kMiB);
  EXPECT_GE(freed[1] + 4 * kMiB, freed[0]);
}

TEST_P(RealFilesystemsTest, SmallestChunksAddUpToTheSame) {
  const std::string type = GetParam();
  const LoopFilesystem filesystem(tree.path(), type, 2 * kGiB, Mkfs(type));
  ASSERT_TRUE(filesystem.ok());
  filesystem.WriteAndDelete(128);
  const TrimFinished finished =
      TrimIt(filesystem, {.minimum_bytes = 0, .chunk_bytes = 4096, .pace = {}});
  EXPECT_EQ(finished.result, TrimResult::kDone);
  EXPECT_LE(finished.progress.trimmed_bytes, 2 * kGiB + 64 * kMiB);
  EXPECT_EQ(finished.progress.chunks, type == "ext4" ? 16U : type == "xfs" ? 4U : 1U);
}

TEST_P(RealFilesystemsTest, MountedTwiceIsTrimmedOnce) {
  const std::string type = GetParam();
  const LoopFilesystem filesystem(tree.path(), type, kGiB, Mkfs(type));
  ASSERT_TRUE(filesystem.ok());
  const std::string other = tree.path() + "/other";
  mkdir(other.c_str(), 0755);
  ASSERT_EQ(mount(filesystem.mount_point().c_str(), other.c_str(), nullptr, MS_BIND, nullptr), 0);
  const RunResult trimmed = Agent(absl::StrCat("trim ", other, " ", filesystem.mount_point()));
  umount2(other.c_str(), MNT_DETACH);
  EXPECT_EQ(trimmed.status, 0) << trimmed.output;
  EXPECT_EQ(trimmed.output.find("trimmed on"), trimmed.output.rfind("trimmed on"))
      << trimmed.output;
  EXPECT_THAT(trimmed.output, HasSubstr(absl::StrCat("trimmed on ", filesystem.device())));
}

TEST_P(RealFilesystemsTest, ListKnowsItAndItsLoop) {
  const std::string type = GetParam();
  const LoopFilesystem made(tree.path(), type, kGiB, Mkfs(type));
  ASSERT_TRUE(made.ok());
  const auto list = ReadFilesystems(RealProbes());
  ASSERT_TRUE(list.ok());
  const auto targets = ChooseTargets(*list, {made.mount_point()});
  ASSERT_TRUE(targets.ok()) << targets.status();
  const Filesystem& filesystem = targets->at(0).filesystem;
  EXPECT_EQ(filesystem.type, type);
  EXPECT_EQ(filesystem.verdict.obstacle, Obstacle::kLoop);
  EXPECT_EQ(filesystem.chain.devices.at(0).backing_file, made.image());
  EXPECT_GT(filesystem.size_bytes, kGiB / 2);
  EXPECT_EQ(filesystem.uuid,
            Shell("blkid -p -s UUID -o value " + made.device()).output.substr(0, 36));
  EXPECT_THAT(filesystem.Disks(), ElementsAre());
}

// What reason code loop-device advises.
TEST_P(RealFilesystemsTest, WhatLiesInAFileComesBackOnceBothAreTrimmed) {
  const std::string type = GetParam();
  // btrfs keeps an extent of a file as long as any part of it is in use: less comes back there.
  if (type == "btrfs") return;
  const LoopFilesystem outer(tree.path(), type, kGiB, Mkfs(type));
  ASSERT_TRUE(outer.ok());
  const std::string below = outer.mount_point() + "/below";
  ASSERT_EQ(mkdir(below.c_str(), 0700), 0);
  const LoopFilesystem inner(below, "ext4", 256 * kMiB, "-E nodiscard");
  ASSERT_TRUE(inner.ok());
  inner.WriteAndDelete(128);
  const auto list = ReadFilesystems(RealProbes());
  ASSERT_TRUE(list.ok());
  const auto targets = ChooseTargets(*list, {inner.mount_point()});
  ASSERT_TRUE(targets.ok()) << targets.status();
  EXPECT_EQ(targets->at(0).filesystem.chain.devices.at(0).backing_file, inner.image());
  const uint64_t before = outer.AllocatedAtRest();
  EXPECT_EQ(TrimIt(inner).error_number, 0);
  EXPECT_GE(outer.AllocatedAtRest() + 16 * kMiB, before) << "trimmed by nobody yet";
  EXPECT_EQ(TrimIt(outer).error_number, 0);
  EXPECT_LE(outer.AllocatedAtRest() + 80 * kMiB, before);
}

TEST_F(RealFilesystemsTest, NoMarkerWhereSpaceIsShort) {
  const LoopFilesystem fs(tree.path(), "ext4", 64 * kMiB, "-m 0 -E nodiscard");
  const auto targets = ChooseTargets(*ReadFilesystems(RealProbes()), {fs.mount_point()}).value();
  const auto write = [&](uint64_t size) { return WriteMarker(targets[0], size, {}).status(); };
  EXPECT_TRUE(absl::IsFailedPrecondition(write(16 * kMiB)));  // more than a quarter of it
  EXPECT_EQ(write(kMiB), absl::OkStatus());
  const auto room = std::filesystem::space(fs.mount_point()).available;
  std::ofstream(fs.mount_point() + "/full") << std::string(room - kMiB, 'x');
  EXPECT_THAT(std::string(write(4096).message()), HasSubstr("too little is free"));
}

// Its discard would take away what is reserved.
TEST_F(RealFilesystemsTest, NoMarkerInAPreallocatedFile) {
  const LoopFilesystem filesystem(tree.path(), "ext4", 256 * kMiB, "-E nodiscard");
  ASSERT_TRUE(filesystem.ok());
  const auto list = ReadFilesystems(RealProbes());
  ASSERT_TRUE(list.ok()) << list.status();
  const auto targets = ChooseTargets(*list, {filesystem.mount_point()});
  ASSERT_TRUE(targets.ok()) << targets.status();
  EXPECT_TRUE(WriteMarker(targets->front(), kMiB, {}).ok());
  const UniqueFd image(open(filesystem.image().c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(posix_fallocate(image.get(), 0, 256 * kMiB), 0);
  const auto marker = WriteMarker(targets->front(), kMiB, {});
  EXPECT_EQ(marker.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(marker.status().message()), HasSubstr("preallocated"));
}

TEST_P(RealFilesystemsTest, ReadOnlyIsSkipped) {
  const std::string type = GetParam();
  const LoopFilesystem filesystem(tree.path(), type, kGiB, Mkfs(type));
  ASSERT_TRUE(filesystem.ok());
  ASSERT_EQ(
      mount(nullptr, filesystem.mount_point().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr),
      0);
  const RunResult trimmed = Agent("trim " + filesystem.mount_point());
  EXPECT_EQ(trimmed.status, 1);
  EXPECT_THAT(trimmed.output, HasSubstr("skipped: mounted read-only"));
}

INSTANTIATE_TEST_SUITE_P(All, RealFilesystemsTest, ::testing::Values("ext4", "xfs", "btrfs"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST_F(RealFilesystemsTest, OneKibibyteBlocksAddUp) {
  const LoopFilesystem filesystem(tree.path(), "ext4", 512 * kMiB, "-b 1024 -E nodiscard");
  ASSERT_TRUE(filesystem.ok());
  const TrimFinished finished =
      TrimIt(filesystem, {.minimum_bytes = 0, .chunk_bytes = 4096, .pace = {}});
  EXPECT_EQ(finished.result, TrimResult::kDone);
  EXPECT_EQ(finished.progress.chunks, 64U);
  EXPECT_GE(finished.progress.trimmed_bytes, 400 * kMiB);
  EXPECT_LE(finished.progress.trimmed_bytes, 512 * kMiB);
}

TEST_F(RealFilesystemsTest, WhatCannotBeTrimmed) {
  const std::string point = tree.path() + "/tmp";
  mkdir(point.c_str(), 0755);
  ASSERT_EQ(mount("tmpfs", point.c_str(), "tmpfs", 0, nullptr), 0);
  const RunResult trimmed = Agent("trim " + point);
  umount2(point.c_str(), MNT_DETACH);
  EXPECT_EQ(trimmed.status, 1);
  EXPECT_THAT(trimmed.output, HasSubstr("skipped: no disk below it"));
}

// Host and terminal see the name escaped, and the escaped name finds the filesystem again.
TEST_F(RealFilesystemsTest, StrangeMountPoint) {
  const LoopFilesystem filesystem(tree.path(), "ext4", 64 * kMiB, "-E nodiscard");
  ASSERT_TRUE(filesystem.ok());
  const std::string strange = tree.path() + "/a\x1b[31m b\xff";
  ASSERT_EQ(mkdir(strange.c_str(), 0755), 0);
  ASSERT_EQ(mount(filesystem.mount_point().c_str(), strange.c_str(), nullptr, MS_MOVE, nullptr), 0);
  const RunResult listed = Agent("list");
  const auto list = ReadFilesystems(RealProbes());
  const auto targets = ChooseTargets(*list, {tree.path() + "/a\x1b[31m b\\xff"});
  umount2(strange.c_str(), MNT_DETACH);
  EXPECT_THAT(listed.output, HasSubstr("/a\\x1b[31m b\\xff"));
  EXPECT_EQ(listed.output.find('\x1b'), std::string::npos);
  ASSERT_TRUE(targets.ok()) << targets.status();
  EXPECT_EQ(targets->at(0).mount_point, strange);
}

// One FITRIM per chunk must not cost what the pacing is meant to save: the fastest of each, on the
// same filesystem with the same work (a remount makes ext4 forget what it trimmed).
TEST_F(RealFilesystemsTest, NotSlowerThanUtilLinux) {
  const LoopFilesystem filesystem(tree.path(), "ext4", 20 * kGiB, "-E nodiscard");
  ASSERT_TRUE(filesystem.ok());
  const UniqueFd keep(
      open(filesystem.device().c_str(), O_RDONLY | O_CLOEXEC));  // through the remount
  double best[2] = {1e9, 1e9};
  for (int round = 0; round < 8; ++round) {
    for (const bool ours : {round % 2 == 0, round % 2 != 0}) {
      ASSERT_EQ(umount(filesystem.mount_point().c_str()), 0);
      ASSERT_EQ(
          mount(filesystem.device().c_str(), filesystem.mount_point().c_str(), "ext4", 0, nullptr),
          0);
      const auto begin = std::chrono::steady_clock::now();
      const RunResult result = ours ? Agent("trim " + filesystem.mount_point())
                                    : Shell("fstrim -v " + filesystem.mount_point());
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      ASSERT_EQ(result.status, 0) << result.output;
      best[ours ? 1 : 0] = std::min(best[ours ? 1 : 0], seconds);
    }
  }
  printf("20 GiB ext4: fstrim %.1f ms, virt-reclaim-agent %.1f ms\n", best[0] * 1e3, best[1] * 1e3);
#ifndef VIRT_RECLAIM_SANITIZE_ADDRESS
  // A guard against gross slowness only: at this size the start of the larger program dominates.
  EXPECT_LE(best[1], best[0] * 1.1 + 0.05);
#endif
}

}  // namespace
}  // namespace virt_reclaim::agent

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  using virt_reclaim::agent::why_not;
  if (geteuid() != 0) why_not = "needs root for loop devices and mounts";
  // Mounts of this process only: nothing stays behind, and nothing else is disturbed.
  if (why_not.empty() && (unshare(CLONE_NEWNS) != 0 ||
                          mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)) {
    why_not = "may not make a mount namespace";
  }
  if (why_not.empty() && access("/dev/loop-control", R_OK | W_OK) != 0)
    why_not = "needs /dev/loop-control";
  for (const char* tool : {"mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "fstrim", "blkid"}) {
    const std::string command = std::string("command -v ") + tool + " >/dev/null 2>&1";
    if (why_not.empty() && system(command.c_str()) != 0) why_not = std::string("needs ") + tool;
  }
  if (!why_not.empty()) {
    fprintf(stderr, "skipped: %s\n", why_not.c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
