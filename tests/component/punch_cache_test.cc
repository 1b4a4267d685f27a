// punch leaves the page cache as it found it: what domains use stays there, and nothing else comes.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "tests/component/punch_fixtures.h"

namespace virt_reclaim::punch {
namespace {

constexpr size_t kPage = 4096;

enum class Cached {
  kNothing,
  kAll,
  kHalf,  // every other MiB
};

struct Place {
  const char* name;
  const char* type;
  const char* mkfs;
  Cached cached;
};
void PrintTo(const Place& place, std::ostream* out) { *out << place.name; }

const Place kPlaces[] = {
    {"ext4_cold", "ext4", "-E nodiscard", Cached::kNothing},
    {"ext4_hot", "ext4", "-E nodiscard", Cached::kAll},
    {"ext4_half", "ext4", "-E nodiscard", Cached::kHalf},
    {"xfs_cold", "xfs", "-K", Cached::kNothing},
    {"xfs_hot", "xfs", "-K", Cached::kAll},
    {"xfs_half", "xfs", "-K", Cached::kHalf},
    {"btrfs_cold", "btrfs", "-K", Cached::kNothing},
    {"btrfs_hot", "btrfs", "-K", Cached::kAll},
    {"btrfs_half", "btrfs", "-K", Cached::kHalf},
};

// Nobody has the file open afterwards: a lease would not be granted.
void SetCache(const std::string& path, Cached wanted) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
  if (wanted == Cached::kNothing) return;
  ASSERT_EQ(posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM), 0);  // no readahead
  std::vector<char> buffer(kMiB);
  for (off_t at = 0; at < StatFile(path).st_size; at += kMiB) {
    if (wanted == Cached::kHalf && at / static_cast<off_t>(kMiB) % 2 == 1) continue;
    ASSERT_GT(pread(fd.get(), buffer.data(), buffer.size(), at), 0);
  }
}

// Of each page whether it is in the cache.
std::vector<bool> CachedPages(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const auto size = static_cast<size_t>(StatFile(path).st_size);
  std::vector<unsigned char> pages((size + kPage - 1) / kPage);
  void* memory = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
  EXPECT_NE(memory, MAP_FAILED);
  EXPECT_EQ(mincore(memory, size, pages.data()), 0);
  munmap(memory, size);
  std::vector<bool> cached;
  for (const unsigned char page : pages) cached.push_back((page & 1) != 0);
  return cached;
}

struct PunchCacheTest : ::testing::TestWithParam<Place> {
  PunchCacheTest() : fs(GetParam().type, GetParam().mkfs) {}

  void SetUp() override {
    ASSERT_TRUE(fs.ok()) << fs.why_not();
    WriteContent(path(), content);
    const size_t all = content.size() / kPage;
    const size_t wanted = GetParam().cached == Cached::kNothing ? 0
                          : GetParam().cached == Cached::kAll   ? all
                                                                : all / 2;
    size_t pages = all + 1;
    // A kernel that reclaims memory ahead of need may be faster.
    for (int tries = 0; tries < 5 && pages != wanted; ++tries) {
      SetCache(path(), GetParam().cached);
      before = CachedPages(path());
      pages = static_cast<size_t>(std::count(before.begin(), before.end(), true));
    }
    ASSERT_EQ(pages, wanted);
  }

  std::string path() const { return fs.Path("image"); }

  // What is zero, and was cached, may have gone with its blocks.
  void ExpectTheSameCache() {
    const std::vector<bool> after = CachedPages(path());
    size_t more = 0;
    size_t less = 0;
    for (size_t page = 0; page < before.size(); ++page) {
      if (after[page] && !before[page]) ++more;
      const absl::string_view bytes(content.data() + page * kPage, kPage);
      if (before[page] && !after[page] && bytes.find_first_not_of('\0') != bytes.npos) ++less;
    }
    constexpr size_t kAFew = 16;  // the first page is looked at by itself, the kernel has its own
    EXPECT_LE(more, kAFew) << "pages of " << before.size();
    EXPECT_LE(less, before.size() / 16) << "pages of " << before.size();  // reclaimed meanwhile
  }

  LoopMount fs;
  const std::string content = HalfZeroContent(40 * kMiB);
  std::vector<bool> before;
};

TEST_P(PunchCacheTest, StaysWhenMeasured) {
  const auto result = MeasureFile(path());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->zero_bytes, 10 * kMiB);
  ExpectTheSameCache();
}

TEST_P(PunchCacheTest, StaysWhenPunched) {
  const auto result = PunchFile(path());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->punched_bytes, 10 * kMiB);
  EXPECT_EQ(result->moved_bytes > 0, std::string(GetParam().type) == "btrfs");
  ExpectTheSameCache();
  EXPECT_TRUE(ReadContent(path()) == content);
}

INSTANTIATE_TEST_SUITE_P(All, PunchCacheTest, ::testing::ValuesIn(kPlaces),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace virt_reclaim::punch
