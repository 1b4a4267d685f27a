#include "tests/component/punch_fixtures.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"

namespace virt_reclaim::punch {

RunResult Shell(const std::string& command) {
  RunResult result;
  FILE* pipe = popen(absl::StrCat("(", command, ") 2>&1").c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  for (size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    result.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  return result;
}

LoopMount::LoopMount(const std::string& type, const std::string& mkfs_options,
                     const std::string& mount_options, uint64_t size) {
  std::string name = (std::filesystem::temp_directory_path() / "punch-test.XXXXXX").string();
  directory_ = mkdtemp(name.data()) == nullptr ? "" : name;
  const std::string point = directory_ + "/mnt";
  mkdir(point.c_str(), 0755);
  if (type == "tmpfs" || type == "ramfs") {
    const char* limit = type == "tmpfs" ? "size=256m" : nullptr;
    if (mount(type.c_str(), point.c_str(), type.c_str(), 0, limit) != 0) why_not_ = "no " + type;
    return;
  }
  const std::string image = directory_ + "/image";
  UniqueFd file(open(image.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(size)), 0);
  const RunResult made = Shell(absl::StrCat("mkfs.", type, " -q ", mkfs_options, " ", image));
  if (made.status != 0) {
    why_not_ = absl::StrCat("mkfs.", type, ": ", made.output);
    return;
  }
  const UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  for (int tries = 0; tries < 20; ++tries) {
    const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    const std::string node = absl::StrCat("/dev/loop", number);
    const UniqueFd loop(open(node.c_str(), O_RDWR | O_CLOEXEC));
    loop_config config = {};
    config.fd = static_cast<uint32_t>(file.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;  // goes with its last user
    if (!loop.valid() || ioctl(loop.get(), LOOP_CONFIGURE, &config) != 0) continue;
    device_ = node;
    if (mount(node.c_str(), point.c_str(), type.c_str(), 0, mount_options.c_str()) != 0)
      why_not_ = absl::StrCat("mount of ", type, " with '", mkfs_options, "' failed");
    return;
  }
  why_not_ = "no loop device is free";
}

LoopMount::~LoopMount() {
  umount2((directory_ + "/mnt").c_str(), MNT_DETACH);
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

uint64_t LoopMount::FreeBytes() const {
  const UniqueFd fd(open(Path("").c_str(), O_RDONLY | O_CLOEXEC));
  struct statvfs status = {};
  for (int i = 0; i < 2; ++i) syncfs(fd.get());
  fstatvfs(fd.get(), &status);
  return status.f_bfree * status.f_frsize;
}

// Until file times are later than any so far: two files that are written within one tick of the
// kernel's have the same time, and pass for equal where only size and time are looked at.
void AwaitTick() {
  constexpr struct timespec kStep = {.tv_sec = 0, .tv_nsec = 200'000};
  struct timespec start;
  struct timespec now;
  ASSERT_EQ(clock_gettime(CLOCK_REALTIME_COARSE, &start), 0);
  do {
    nanosleep(&kStep, nullptr);
    ASSERT_EQ(clock_gettime(CLOCK_REALTIME_COARSE, &now), 0);
  } while (now.tv_sec == start.tv_sec && now.tv_nsec == start.tv_nsec);
}

void WriteContent(const std::string& path, const std::string& content) {
  AwaitTick();
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  EXPECT_TRUE(fd.valid()) << path;
  EXPECT_EQ(pwrite(fd.get(), content.data(), content.size(), 0),
            static_cast<ssize_t>(content.size()));
  EXPECT_EQ(fsync(fd.get()), 0);
}

void WriteBlocks(const std::string& path, const std::string& blocks, uint64_t block_bytes,
                 uint64_t cut) {
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  EXPECT_TRUE(fd.valid()) << path;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i] == '-') continue;
    const uint64_t bytes = block_bytes - (i + 1 == blocks.size() ? cut : 0);
    const std::string block(bytes, blocks[i] == '0' ? '\0' : 'x');
    EXPECT_EQ(pwrite(fd.get(), block.data(), bytes, static_cast<off_t>(i * block_bytes)),
              static_cast<ssize_t>(bytes));
  }
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(blocks.size() * block_bytes - cut)), 0);
  EXPECT_EQ(fsync(fd.get()), 0);
}

std::string HalfZeroContent(uint64_t bytes, unsigned seed) {
  std::mt19937 dice(seed);
  std::string content;
  bool data = false;
  while (content.size() < bytes) {
    const uint64_t length = std::min<uint64_t>(4096U << (dice() % 8), bytes - content.size());
    const size_t start = content.size();
    content.resize(start + length);
    for (size_t i = start; data && i < content.size(); ++i)
      content[i] = static_cast<char>(1 + dice() % 255);
    data = !data;
  }
  return content;
}

std::string ReadContent(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string content(StatFile(path).st_size, '\0');
  EXPECT_EQ(pread(fd.get(), content.data(), content.size(), 0),
            static_cast<ssize_t>(content.size()));
  return content;
}

struct stat StatFile(const std::string& path) {
  struct stat status = {};
  EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
  return status;
}

uint64_t AllocatedBytes(const std::string& path) {
  return static_cast<uint64_t>(StatFile(path).st_blocks) * 512;
}

int64_t MtimeNs(const std::string& path) { return IdentityOf(StatFile(path)).mtime_ns; }

absl::StatusOr<PunchResult> PunchFile(const std::string& path, const PunchOptions& options,
                                      const ProgressCallback& progress) {
  Puncher puncher(options, [] { return std::chrono::steady_clock::now(); });
  const auto plan = puncher.Plan(path);
  if (!plan.ok()) return plan.status();
  return puncher.Punch(*plan, progress ? progress : [](const PunchProgress&) {}, {});
}

absl::StatusOr<PunchResult> MeasureFile(const std::string& path, const PunchOptions& options) {
  Puncher puncher(options, [] { return std::chrono::steady_clock::now(); });
  const auto plan = puncher.Plan(path);
  if (!plan.ok()) return plan.status();
  return puncher.Measure(*plan, [](const PunchProgress&) {}, {});
}

}  // namespace virt_reclaim::punch

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  std::string why_not;
  if (geteuid() != 0) why_not = "needs root for loop devices and mounts";
  if (why_not.empty() && (unshare(CLONE_NEWNS) != 0 ||
                          mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)) {
    why_not = "may not make a mount namespace";
  }
  if (why_not.empty() && access("/dev/loop-control", R_OK | W_OK) != 0)
    why_not = "needs /dev/loop-control";
  for (const char* tool : {"mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "mkswap"}) {
    if (why_not.empty() &&
        system(absl::StrCat("command -v ", tool, " >/dev/null 2>&1").c_str()) != 0) {
      why_not = absl::StrCat("needs ", tool);
    }
  }
  if (!why_not.empty()) {
    fprintf(stderr, "skipped: %s\n", why_not.c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
