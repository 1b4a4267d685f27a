// punch against writers: buffered, O_DIRECT and mapped, all at once, and not one write is lost.
// VIRT_RECLAIM_WRITERS_SECONDS says how long for each of the four tests: 5 by default, so 20 in
// all; 150 makes the long run of scripts/test --long, ten minutes. Up to 600 fit into its time
// limit.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "base/byte_size.h"
#include "base/handle.h"
#include "base/unique_fd.h"
#include "tests/component/punch_fixtures.h"

namespace virt_reclaim::punch {
namespace {

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kBlocks = 2048;

std::chrono::seconds Duration() {
  const char* text = getenv("VIRT_RECLAIM_WRITERS_SECONDS");
  return std::chrono::seconds(text == nullptr ? 5 : std::max(1, atoi(text)));
}

enum class How { kBuffered, kDirect, kMapped };

// Each writer has every third block for itself, and knows what it wrote there last: a number, or
// zeros. A lost write shows when it comes back, or at the end.
class Writer {
 public:
  Writer(std::string path, How how, bool reopen)
      : path_(std::move(path)), how_(how), reopen_(reopen), last_(kBlocks) {}

  void Run(const std::atomic<bool>& stop) {
    std::mt19937_64 dice(static_cast<unsigned>(how_) + 1);
    Open();
    while (!stop) {
      const uint64_t block = dice() % (kBlocks / 3) * 3 + static_cast<uint64_t>(how_);
      Check(block);
      last_[block] = dice() % 2 == 0 ? 0 : dice() | 1;
      Put(block);
      ++writes;
      if (reopen_ && writes % 16 == 0) {
        Close();
        // Long enough that a guard is had now and then, short enough that not every punch ends.
        std::this_thread::sleep_for(std::chrono::milliseconds(20 + dice() % 200));
        Open();
      }
    }
    for (uint64_t block = static_cast<uint64_t>(how_); block < kBlocks; block += 3) Check(block);
    Close();
  }

  std::atomic<uint64_t> writes = 0;
  std::atomic<uint64_t> lost = 0;

 private:
  void Open() {
    fd_.Reset(open(path_.c_str(), O_RDWR | O_CLOEXEC | (how_ == How::kDirect ? O_DIRECT : 0)));
    if (how_ == How::kMapped) {
      map_ = static_cast<unsigned char*>(
          mmap(nullptr, kBlocks * kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0));
    }
  }
  void Close() {
    if (map_ != nullptr) munmap(map_, kBlocks * kBlock);
    map_ = nullptr;
    fd_.Reset();
  }
  void Put(uint64_t block) {
    unsigned char* to =
        map_ == nullptr ? static_cast<unsigned char*>(buffer_.get()) : map_ + block * kBlock;
    for (uint64_t at = 0; at < kBlock; at += sizeof last_[block])
      memcpy(to + at, &last_[block], sizeof last_[block]);
    if (map_ == nullptr &&
        pwrite(fd_.get(), to, kBlock, static_cast<off_t>(block * kBlock)) != ssize_t{kBlock}) {
      ++lost;
    }
  }
  void Check(uint64_t block) {
    const unsigned char* from =
        map_ == nullptr ? static_cast<unsigned char*>(buffer_.get()) : map_ + block * kBlock;
    if (map_ == nullptr && pread(fd_.get(), buffer_.get(), kBlock,
                                 static_cast<off_t>(block * kBlock)) != ssize_t{kBlock}) {
      ++lost;
    }
    for (uint64_t at = 0; at < kBlock; at += sizeof last_[block]) {
      if (memcmp(from + at, &last_[block], sizeof last_[block]) != 0) {
        ++lost;
        return;
      }
    }
  }

  std::string path_;
  How how_;
  bool reopen_;
  std::vector<uint64_t> last_;
  UniqueFd fd_;
  unsigned char* map_ = nullptr;
  Handle<void, free> buffer_{aligned_alloc(kBlock, kBlock)};
};

struct Tally {
  uint64_t writes = 0;
  uint64_t lost = 0;
  uint64_t punched = 0;
  uint64_t refused = 0;
  uint64_t interrupted = 0;
  std::vector<absl::Status> failures;
};

// `reopen`: the writers let go of the file now and then, so that a guard can be had.
Tally Fight(const std::string& path, const PunchOptions& options, bool reopen) {
  WriteContent(path, std::string(kBlocks * kBlock, '\0'));
  Writer buffered(path, How::kBuffered, reopen);
  Writer direct(path, How::kDirect, reopen);
  Writer mapped(path, How::kMapped, reopen);
  std::atomic<bool> stop = false;
  Tally tally;
  {
    std::vector<std::jthread> threads;
    for (Writer* writer : {&buffered, &direct, &mapped})
      threads.emplace_back([&stop, writer] { writer->Run(stop); });
    const auto end = std::chrono::steady_clock::now() + Duration();
    // On a busy machine the writers come back too seldom; to be interrupted is what they are for.
    const auto patience = end + std::chrono::minutes(1);
    const auto goes_on = [&] {
      const auto now = std::chrono::steady_clock::now();
      return now < end || (reopen && tally.interrupted == 0 && now < patience);
    };
    while (goes_on()) {
      const auto result = PunchFile(path, options);
      if (absl::IsAborted(result.status()) || absl::IsFailedPrecondition(result.status())) {
        ++tally.refused;
      } else if (!result.ok()) {
        tally.failures.push_back(result.status());
      } else {
        tally.punched += result->punched_bytes;
        tally.interrupted += result->interrupted ? 1 : 0;
      }
    }
    stop = true;
  }
  for (const Writer* writer : {&buffered, &direct, &mapped}) {
    tally.writes += writer->writes;
    tally.lost += writer->lost;
  }
  printf("%lu writes, %lu lost; %lu MiB punched, %lu times refused, %lu times interrupted\n",
         tally.writes, tally.lost, tally.punched / kMiB, tally.refused, tally.interrupted);
  return tally;
}

// What holds on every filesystem; the tally is for the rest.
Tally ExpectNothingLost(const char* kind, const char* mkfs, const PunchOptions& options,
                        bool reopen) {
  const LoopMount fs(kind, mkfs);
  EXPECT_TRUE(fs.ok()) << fs.why_not();
  if (!fs.ok()) return {};
  const Tally tally = Fight(fs.Path("image"), options, reopen);
  EXPECT_EQ(tally.lost, 0U);
  EXPECT_THAT(tally.failures, ::testing::IsEmpty());
  return tally;
}

TEST(WritersTest, AtomicOnXfsInUse) {
  const Tally tally = ExpectNothingLost("xfs", "-K", {.live = true}, false);
  EXPECT_GT(tally.punched, 0U);
  EXPECT_GT(tally.writes, 1000U);
}

TEST(WritersTest, AtomicOnBtrfsInUse) {
  const Tally tally = ExpectNothingLost("btrfs", "-K", {.live = true}, false);
  EXPECT_GT(tally.punched, 0U);
  EXPECT_GT(tally.writes, 1000U);
}

// The guard: refused while they have it, interrupted when they come back.
void ExpectAGuard(const Tally& tally) {
  EXPECT_GT(tally.writes, 100U);
  EXPECT_GT(tally.punched, 0U);
  EXPECT_GT(tally.refused, 0U);
  EXPECT_GT(tally.interrupted, 0U);
}

TEST(WritersTest, GuardedOnExt4) {
  ExpectAGuard(ExpectNothingLost("ext4", "-E nodiscard", {}, true));
}

TEST(WritersTest, GuardedOnXfs) {
  ExpectAGuard(ExpectNothingLost("xfs", "-K", {.way = Way::kPlain}, true));
}

}  // namespace
}  // namespace virt_reclaim::punch
