// The guard against real users of an image: QEMU's tools, loop devices, readers, mappings.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <future>
#include <thread>

#include "absl/strings/str_cat.h"
#include "host/guard/image_guard.h"

namespace virt_reclaim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

struct GuardTest : ::testing::Test {
  GuardTest() {
    std::string name = (std::filesystem::temp_directory_path() / "guard-test.XXXXXX").string();
    directory = mkdtemp(name.data()) == nullptr ? "" : name;
    image = directory + "/image";
    const UniqueFd fd(open(image.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(ftruncate(fd.get(), 1 << 20), 0);
  }
  ~GuardTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }
  absl::Status Try(ImageIntent intent = ImageIntent::kSameContent) const {
    GuardOptions options;
    options.intent = intent;
    return ImageGuard::Acquire(image, options).status();
  }
  static bool Has(const char* tool) {
    return system(absl::StrCat("command -v ", tool, " >/dev/null 2>&1").c_str()) == 0;
  }
  std::string directory;
  std::string image;
};

// Another process that has the image open until it is destroyed.
class Other {
 public:
  explicit Other(const std::function<bool()>& open_it) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) {
      const bool opened = open_it();
      static_cast<void>(!write(ends[1], opened ? "y" : "n", 1));
      while (true) pause();
    }
    close(ends[1]);
    char answer = 'n';
    EXPECT_EQ(read(ends[0], &answer, 1), 1);
    EXPECT_EQ(answer, 'y');
    close(ends[0]);
  }
  ~Other() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Other(const Other&) = delete;
  Other& operator=(const Other&) = delete;
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

TEST_F(GuardTest, FreeImage) {
  for (const ImageIntent intent :
       {ImageIntent::kSameContent, ImageIntent::kWrite, ImageIntent::kResize}) {
    EXPECT_TRUE(Try(intent).ok()) << Try(intent);
  }
  auto guard = ImageGuard::Acquire(image, {});
  ASSERT_TRUE(guard.ok()) << guard.status();
  EXPECT_FALSE(guard->Interrupted());
  EXPECT_EQ(guard->identity().size_bytes, 1U << 20);
}

TEST_F(GuardTest, ReaderIsNamed) {
  const Other other([this] { return open(image.c_str(), O_RDONLY | O_CLOEXEC) >= 0; });
  const absl::Status status = Try();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(status.message(), HasSubstr(absl::StrCat("(pid ", other.pid(), ")")));
}

// It has no descriptor any more, only memory.
TEST_F(GuardTest, MappingIsSeen) {
  const Other other([this] {
    const UniqueFd fd(open(image.c_str(), O_RDWR | O_CLOEXEC));
    return mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0) != MAP_FAILED;
  });
  EXPECT_EQ(Try().code(), absl::StatusCode::kAborted);
}

TEST_F(GuardTest, TwoGuardsDoNotDisturbEachOther) {
  const auto guard = ImageGuard::Acquire(image, {});
  ASSERT_TRUE(guard.ok()) << guard.status();
  const std::string& path = image;
  int status = -1;
  const pid_t child = fork();
  if (child == 0) {
    _exit(ImageGuard::Acquire(path, {}).status().code() == absl::StatusCode::kAborted ? 0 : 1);
  }
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(guard->Interrupted());  // the second one looked without opening
}

TEST_F(GuardTest, WhoOpensItWaitsUntilWeLetGo) {
  auto guard = ImageGuard::Acquire(image, {});
  ASSERT_TRUE(guard.ok()) << guard.status();
  std::atomic<bool> opened = false;
  std::thread opener([&] {
    const UniqueFd fd(open(image.c_str(), O_RDWR | O_CLOEXEC));
    opened = fd.valid();
  });
  for (int i = 0; i < 500 && !guard->Interrupted(); ++i)
    std::this_thread::sleep_for(milliseconds(10));
  EXPECT_TRUE(guard->Interrupted());
  EXPECT_FALSE(opened);
  guard->Release();
  opener.join();
  EXPECT_TRUE(opened);
}

TEST_F(GuardTest, NotAnImage) {
  EXPECT_EQ(ImageGuard::Acquire("/dev/null", {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ImageGuard::Acquire(directory, {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ImageGuard::Acquire(image + "-none", {}).status().code(), absl::StatusCode::kNotFound);
}

// There is no NFS here to try it on.
TEST(LeasesTest, ProveNothingWhereOtherHostsMayHaveTheFile) {
  const dev_t disk = makedev(8, 1), made_up = makedev(0, 40);
  EXPECT_TRUE(CheckLeasesProve(EXT4_SUPER_MAGIC, disk).ok());
  EXPECT_TRUE(CheckLeasesProve(TMPFS_MAGIC, made_up).ok());
  EXPECT_TRUE(CheckLeasesProve(FUSE_SUPER_MAGIC, disk).ok());
  for (const int64_t type : {NFS_SUPER_MAGIC, V9FS_MAGIC, FUSE_SUPER_MAGIC, OCFS2_SUPER_MAGIC}) {
    const absl::Status status = CheckLeasesProve(type, made_up);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << type << ": " << status;
  }
}

// ---- With QEMU's own tools.

TEST_F(GuardTest, QemuHasIt) {
  if (!Has("qemu-io")) GTEST_SKIP() << "needs qemu-io";
  for (const char* options : {"-f raw", "-f raw -r"}) {
    const std::string command =
        absl::StrCat("qemu-io ", options, " -c 'sleep 3000' ", image, " >/dev/null 2>&1 &");
    ASSERT_EQ(system(command.c_str()), 0);
    absl::Status status;
    for (int i = 0; i < 200 && status.ok(); ++i) {
      std::this_thread::sleep_for(milliseconds(10));
      status = Try();
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << options;
    EXPECT_THAT(status.message(), HasSubstr("qemu-io (pid")) << options;
    for (int i = 0; i < 600 && !Try().ok(); ++i) std::this_thread::sleep_for(milliseconds(10));
    EXPECT_TRUE(Try().ok());
  }
}

// A lease on FUSE is this host's alone: who has the file elsewhere would not be seen.
TEST_F(GuardTest, FuseIsRefused) {
  if (!Has("qemu-storage-daemon")) GTEST_SKIP() << "needs qemu-storage-daemon";
  const std::string file = image + "-fuse";
  const std::string start = absl::StrCat(
      "truncate -s 1M ", file, " && qemu-storage-daemon --daemonize --pidfile ", image,
      "-pid --blockdev driver=file,node-name=f,filename=", image,
      " --export type=fuse,id=e,node-name=f,writable=on,mountpoint=", file, " >/dev/null 2>&1");
  if (system(start.c_str()) != 0) GTEST_SKIP() << "needs FUSE";
  const absl::Status status = ImageGuard::Acquire(file, {}).status();
  EXPECT_EQ(system(absl::StrCat("kill $(cat ", image, "-pid)").c_str()), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(status.message(), HasSubstr("users on other hosts"));
  // Until it has gone.
  for (int i = 0; i < 1000 && !Try().ok(); ++i) std::this_thread::sleep_for(milliseconds(10));
  EXPECT_TRUE(Try().ok());
}

// The start of a domain while we work: it waits a moment, and finds no lock of ours.
TEST_F(GuardTest, QemuThatComesMeanwhileSucceeds) {
  if (!Has("qemu-io")) GTEST_SKIP() << "needs qemu-io";
  auto guard = ImageGuard::Acquire(image, {});
  ASSERT_TRUE(guard.ok()) << guard.status();
  auto start = std::async(std::launch::async, [this] {
    return system(
        absl::StrCat("qemu-io -f raw -c 'write -P 1 0 4096' ", image, " >/dev/null 2>&1").c_str());
  });
  for (int i = 0; i < 1000 && !guard->Interrupted(); ++i)
    std::this_thread::sleep_for(milliseconds(10));
  EXPECT_TRUE(guard->Interrupted());
  EXPECT_EQ(start.wait_for(milliseconds(200)), std::future_status::timeout);
  guard->Release();
  EXPECT_EQ(start.get(), 0);
}

// One that comes while the guard is being taken, too: there is no moment with a lock and no lease.
TEST_F(GuardTest, QemuThatComesAtAnyMomentSucceeds) {
  if (!Has("qemu-io")) GTEST_SKIP() << "needs qemu-io";
  std::atomic<bool> over = false;
  auto starts = std::async(std::launch::async, [&] {
    const std::string command =
        absl::StrCat("qemu-io -f raw -c 'write -P 1 0 4096' ", image, " >/dev/null 2>&1");
    int failed = 0;
    for (int i = 0; i < 100; ++i) failed += system(command.c_str()) != 0 ? 1 : 0;
    over = true;
    return failed;
  });
  int taken = 0;
  while (!over) {
    auto guard = ImageGuard::Acquire(image, {});
    if (!guard.ok()) {
      EXPECT_EQ(guard.status().code(), absl::StatusCode::kAborted) << guard.status();
      continue;
    }
    ++taken;
    while (!guard->Interrupted() && !over) std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_EQ(starts.get(), 0);
  printf("taken %d times\n", taken);
  EXPECT_GT(taken, 10);
}

// Locks alone, as on a block device or a filesystem without leases.
// A disk that a domain gets in a /dev of its own, as libvirt gives it by default: another node of
// the same device, on which locks are not ours.
struct DeviceTest : GuardTest {
  DeviceTest() : node(directory + "/node"), said(directory + "/said") {
    FILE* const made = popen(("losetup --find --show " + image + " 2>/dev/null").c_str(), "r");
    char line[64] = {};
    if (made != nullptr && fgets(line, sizeof line, made) != nullptr)
      device.assign(line, strcspn(line, "\n"));
    if (made != nullptr) pclose(made);
    struct stat status;
    if (!device.empty() && (stat(device.c_str(), &status) != 0 ||
                            mknod(node.c_str(), S_IFBLK | 0600, status.st_rdev) != 0)) {
      Detach();
    }
  }
  ~DeviceTest() override {
    Leave();
    Detach();
  }
  void Detach() {
    if (device.empty()) return;
    EXPECT_EQ(system(("losetup --detach " + device).c_str()), 0);
    device.clear();
  }
  // Somebody who is no child of this process opens it, and has it open until Leave().
  void Open(const std::string& how) {
    const std::string script =
        absl::StrCat("(exec 3", how, node, "; sh -c 'echo $PPID' >", said, ".new; mv ", said,
                     ".new ", said, "; exec sleep 600) >/dev/null 2>&1 &");
    ASSERT_EQ(system(script.c_str()), 0);
    for (int i = 0; i < 500 && access(said.c_str(), F_OK) != 0; ++i)
      std::this_thread::sleep_for(milliseconds(10));
    FILE* const file = fopen(said.c_str(), "re");
    ASSERT_NE(file, nullptr);
    EXPECT_EQ(fscanf(file, "%d", &stranger), 1);
    fclose(file);
    unlink(said.c_str());
  }
  void Leave() {
    if (stranger > 0) kill(stranger, SIGKILL);
    stranger = 0;
  }
  std::string device, node, said;
  pid_t stranger = 0;
};

TEST_F(DeviceTest, WhoOpensItForWritingIsSeenOnWhateverNode) {
  if (device.empty()) GTEST_SKIP() << "needs a loop device";
  auto guard = ImageGuard::Acquire(device, {});
  ASSERT_TRUE(guard.ok()) << guard.status();
  EXPECT_FALSE(guard->Interrupted());
  // Who reads, as programs do that look at every disk, does no harm; nor does a child of ours.
  Open("<");
  const Other ours([&] { return open(node.c_str(), O_RDWR) >= 0; });
  std::this_thread::sleep_for(milliseconds(500));
  EXPECT_FALSE(guard->Interrupted());
  Leave();

  Open("<>");
  for (int i = 0; i < 500 && !guard->Interrupted(); ++i)
    std::this_thread::sleep_for(milliseconds(10));
  EXPECT_TRUE(guard->Interrupted());
  Leave();
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_TRUE(guard->Interrupted());  // he may have written
}

TEST_F(DeviceTest, AnotherNodeThatIsOpenIsInUse) {
  if (device.empty()) GTEST_SKIP() << "needs a loop device";
  Open("<>");
  const absl::Status status = ImageGuard::Acquire(device, {}).status();
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("pid"));
}

TEST_F(GuardTest, LocksAreQemus) {
  const UniqueFd one(open(image.c_str(), O_RDWR | O_CLOEXEC));
  const UniqueFd other(open(image.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(LockImage(one.get(), ImageIntent::kSameContent).ok());
  // Neither shares writing.
  EXPECT_EQ(LockImage(other.get(), ImageIntent::kWrite).code(), absl::StatusCode::kAborted);
  UnlockImage(other.get());
  // Two that leave the content as it is may.
  EXPECT_TRUE(CheckImageLocks(other.get(), ImageIntent::kSameContent).ok());
  if (Has("qemu-io")) {
    const std::string write =
        absl::StrCat("qemu-io -f raw -c 'write 0 512' ", image, " >/dev/null 2>&1");
    EXPECT_NE(system(write.c_str()), 0);
    const std::string read =
        absl::StrCat("qemu-io -f raw -r -c 'read 0 512' ", image, " >/dev/null 2>&1");
    EXPECT_EQ(system(read.c_str()), 0);
    UnlockImage(one.get());
    EXPECT_EQ(system(write.c_str()), 0);
  }
}

}  // namespace
}  // namespace virt_reclaim
