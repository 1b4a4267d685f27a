#include "host/services/image_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/unique_fd.h"
#include "host/services/hole_trial.h"
#include "host/services/qcow2_header.h"
#include "host/sync/unfinished_mark.h"

namespace virt_reclaim {
namespace {

// A version 3 header with a backing file and its format.
std::string Qcow2(const std::string& backing, const std::string& format) {
  std::string header(104, '\0');
  const auto put = [&](size_t offset, uint64_t value, size_t width) {
    for (size_t i = 0; i < width; ++i)
      header[offset + i] = static_cast<char>(value >> (8 * (width - 1 - i)));
  };
  put(0, 0x514649fb, 4);
  put(4, 3, 4);
  put(20, 16, 4);
  put(24, 10 * kGiB, 8);
  put(100, 104, 4);
  std::string extension("\xe2\x79\x2a\xca\0\0\0\0", 8);
  extension[7] = static_cast<char>(format.size());
  extension += format + std::string((8 - format.size() % 8) % 8, '\0') + std::string(8, '\0');
  if (!backing.empty()) {
    put(8, header.size() + extension.size(), 8);
    put(16, backing.size(), 4);
  }
  return header + extension + backing;
}

class ImageStoreTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(directory_); }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string Write(const std::string& name, const std::string& content) {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  const std::string directory_ =
      testing::TempDir() + "virt-reclaim-images-" + std::to_string(getpid());
  const std::unique_ptr<ImageStore> store_ = NewImageStore();
};

TEST_F(ImageStoreTest, RawAllocationIsWhatDuSays) {
  const std::string path = directory_ + "/sparse.raw";
  const int fd = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  ASSERT_EQ(ftruncate(fd, 64 << 20), 0);
  const std::string data(1 << 20, 'x');
  ASSERT_EQ(pwrite(fd, data.data(), data.size(), 8 << 20), static_cast<ssize_t>(data.size()));
  fsync(fd);
  const auto chain = store_->Chain({"file", "raw", path}, {});
  ASSERT_TRUE(chain.ok()) << chain.status();
  ASSERT_EQ(chain->size(), 1u);
  EXPECT_EQ(chain->front().usage.capacity, 64 * kMiB);
  const uint64_t before = store_->Allocation(*chain).value();
  EXPECT_GE(before, kMiB);
  EXPECT_LT(before, 2 * kMiB);
  ASSERT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8 << 20, 1 << 20), 0);
  EXPECT_LE(store_->Allocation(*chain).value(), before - kMiB);
  close(fd);
}

TEST_F(ImageStoreTest, CopiesThatAreNotFinishedSaySo) {
  const std::string path = Write("copy.raw", "half");
  if (setxattr(path.c_str(), sync::kUnfinishedMark, "sync", 4, 0) != 0) return;  // no such things
  EXPECT_TRUE(store_->Chain({"file", "raw", path}, {})->front().unfinished_copy);
  ASSERT_EQ(removexattr(path.c_str(), sync::kUnfinishedMark), 0);
  EXPECT_FALSE(store_->Chain({"file", "raw", path}, {})->front().unfinished_copy);
}

TEST_F(ImageStoreTest, FollowsQcow2BackingFilesAndEndsInLoops) {
  Write("base.raw", "raw");
  Write("middle.qcow2", Qcow2("base.raw", "raw"));
  const std::string top = Write("top.qcow2", Qcow2("middle.qcow2", "qcow2"));
  auto chain = store_->Chain({"file", "qcow2", top}, {});
  ASSERT_TRUE(chain.ok());
  ASSERT_EQ(chain->size(), 3u);
  EXPECT_EQ(chain->at(0).usage.capacity, 10 * kGiB);
  EXPECT_EQ(chain->at(2).format, "raw");
  Write("middle.qcow2", Qcow2("top.qcow2", "qcow2"));
  chain = store_->Chain({"file", "qcow2", top}, {});
  ASSERT_TRUE(chain.ok());
  EXPECT_EQ(chain->size(), 2u);
}

// What qemu-img makes, and QEMU's own discards of it.
TEST_F(ImageStoreTest, ADataFileIsMeasuredToo) {
  if (access("/usr/bin/qemu-io", X_OK) != 0) GTEST_SKIP() << "qemu-io is not installed";
  for (const char* raw : {"on", "off"}) {
    SCOPED_TRACE(raw);
    const std::string image = absl::StrCat(directory_, "/of-", raw, ".qcow2");
    const std::string data = absl::StrCat(directory_, "/of-", raw, ".data");
    const auto run = [&](const std::string& command) {
      EXPECT_EQ(system(absl::StrCat(command, " >/dev/null").c_str()), 0) << command;
    };
    run(absl::StrCat("qemu-img create -q -f qcow2 -o data_file='", data, "',data_file_raw=", raw,
                     " '", image, "' 64M"));
    run(absl::StrCat("qemu-io -c 'write -P 5 0 8M' -c 'write -P 6 32M 4M' '", image, "'"));
    const auto chain = store_->Chain({"file", "qcow2", image}, {});
    ASSERT_TRUE(chain.ok()) << chain.status();
    ASSERT_EQ(chain->size(), 1u);
    const ImageFile& top = chain->front();
    EXPECT_TRUE(top.external_data);
    ASSERT_TRUE(top.data.has_value());
    EXPECT_EQ(DataPath(top), data);
    EXPECT_EQ(top.data->raw, std::string(raw) == "on");
    const uint64_t before = store_->Allocation(*chain).value();
    EXPECT_EQ(top.usage.allocation, before);
    EXPECT_GE(before, 12 * kMiB);
    EXPECT_EQ(store_->AllocatedWithin(top, {{0, 64 * kMiB}}, {}).value(), 12 * kMiB);
    run(absl::StrCat("qemu-io -d unmap -c 'discard 0 8M' '", image, "'"));
    EXPECT_EQ(store_->Allocation(*chain).value(), before - 8 * kMiB);
    EXPECT_EQ(store_->AllocatedWithin(top, {{0, 64 * kMiB}}, {}).value(), 4 * kMiB);
    // Another file of that name is none of this image.
    std::filesystem::rename(data, data + ".old");
    std::filesystem::copy(data + ".old", data);
    EXPECT_TRUE(absl::IsUnavailable(store_->Allocation(*chain).status()));
  }
}

TEST_F(ImageStoreTest, ADataFileThatCannotBeLookedAtLeavesTheAllocationUnknown) {
  if (access("/usr/bin/qemu-img", X_OK) != 0) GTEST_SKIP() << "qemu-img is not installed";
  const std::string image = directory_ + "/split.qcow2";
  const auto make = [&](const std::string& data) {
    ASSERT_EQ(
        system(absl::StrCat("cd '", directory_, "' && qemu-img create -q -f qcow2 -o data_file='",
                            data, "' '", image, "' 64M")
                   .c_str()),
        0);
  };
  const auto unknown = [&] {
    const auto chain = store_->Chain({"file", "qcow2", image}, {});
    ASSERT_TRUE(chain.ok()) << chain.status();
    EXPECT_TRUE(chain->front().external_data);
    EXPECT_FALSE(chain->front().data.has_value());
    EXPECT_EQ(chain->front().usage.allocation, std::nullopt);
    EXPECT_TRUE(absl::IsUnavailable(store_->Allocation(*chain).status()));
  };
  make("beside.data");  // nobody knows where QEMU looks for it
  unknown();
  make(directory_ + "/gone.data");
  std::filesystem::remove(directory_ + "/gone.data");
  unknown();
  std::filesystem::create_directory(directory_ + "/gone.data");
  unknown();
}

TEST(ParseQcow2Header, ADataFileIsNamedOnlyWhereThereIsOne) {
  std::string header = Qcow2("", "/etc/shadow");
  header.replace(104, 4, "DATA");
  EXPECT_EQ(ParseQcow2Header(header)->data_file, "");
  header[79] = 4;  // incompatible feature: external data file
  EXPECT_EQ(ParseQcow2Header(header)->data_file, "/etc/shadow");
  EXPECT_FALSE(ParseQcow2Header(header)->data_is_raw);
  header[95] = 2;  // auto-clear feature: it is raw
  EXPECT_TRUE(ParseQcow2Header(header)->data_is_raw);
}

// A guest can write any bytes to the start of its raw disk: they must not make us look at other
// files.
TEST_F(ImageStoreTest, RawImageThatLooksLikeQcow2IsNotFollowed) {
  Write("secret", "secret");
  const std::string path = Write("guest.raw", Qcow2("secret", "raw"));
  const auto chain = store_->Chain({"file", "raw", path}, {});
  ASSERT_TRUE(chain.ok());
  EXPECT_EQ(chain->size(), 1u);
}

// Bytes that this thread has read so far, from wherever: earlier tests may have left threads
// behind.
uint64_t BytesRead() {
  std::ifstream io("/proc/thread-self/io");
  std::string name;
  uint64_t value = 0;
  io >> name >> value;
  EXPECT_EQ(name, "rchar:");
  return value;
}

TEST_F(ImageStoreTest, ContentsAreNotRead) {
  const std::string raw = Write("large.raw", std::string(8 << 20, 'x'));
  const std::string qcow2 = Write("large.qcow2", Qcow2("large.raw", "raw").append(8 << 20, 'x'));
  const uint64_t before = BytesRead();
  const auto of_raw = store_->Chain({"file", "raw", raw}, {});
  const auto of_qcow2 = store_->Chain({"file", "qcow2", qcow2}, {});
  ASSERT_TRUE(of_raw.ok() && of_qcow2.ok());
  EXPECT_EQ(of_qcow2->size(), 2u);
  EXPECT_TRUE(store_->Allocation(*of_raw).ok() && store_->Allocation(*of_qcow2).ok());
  // The header, and a few hundred bytes of /proc/thread-self/io itself.
  EXPECT_LE(BytesRead() - before, 66 * kKiB);
}

TEST_F(ImageStoreTest, MissingReplacedAndStrangeFiles) {
  EXPECT_TRUE(absl::IsNotFound(store_->Chain({"file", "raw", directory_ + "/none"}, {}).status()));
  EXPECT_FALSE(store_->Chain({"file", "raw", directory_}, {}).ok());
  ASSERT_EQ(mkfifo((directory_ + "/fifo").c_str(), 0600), 0);
  EXPECT_FALSE(store_->Chain({"file", "qcow2", directory_ + "/fifo"}, {}).ok());
  const std::string path = Write("a.raw", "x");
  const auto chain = store_->Chain({"file", "raw", path}, {});
  ASSERT_TRUE(chain.ok());
  Write("b.raw", "x");
  std::filesystem::rename(directory_ + "/b.raw", path);
  EXPECT_TRUE(absl::IsUnavailable(store_->Allocation(*chain).status()));
}

TEST(ParseQcow2Header, HostileHeadersAreRefusedOrBounded) {
  const std::string good = Qcow2("base.raw", "raw");
  for (size_t cut = 0; cut < good.size(); ++cut) {
    const auto header = ParseQcow2Header(absl::string_view(good).substr(0, cut));
    EXPECT_TRUE(!header.ok() || header->backing_file.size() <= 1023u);
  }
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = '\xff';
    static_cast<void>(ParseQcow2Header(bad));
  }
  EXPECT_FALSE(ParseQcow2Header("").ok());
  EXPECT_FALSE(ParseQcow2Header(std::string(kQcow2HeaderBytes, '\xff')).ok());
}

TEST(ParseQcow2Header, WhatItSaysOfItself) {
  std::string header = Qcow2("", "raw");
  const auto plain = ParseQcow2Header(header);
  ASSERT_TRUE(plain.ok());
  EXPECT_FALSE(plain->dirty || plain->corrupt || plain->encrypted || plain->bitmaps ||
               plain->unknown_features || plain->external_data);
  header[79] = 0x23;  // incompatible features: dirty, corrupt, and one that is not known
  header[35] = 2;     // LUKS
  header.replace(104, 4, "\x23\x85\x28\x75");
  const auto strange = ParseQcow2Header(header);
  ASSERT_TRUE(strange.ok());
  EXPECT_TRUE(strange->dirty && strange->corrupt && strange->encrypted && strange->bitmaps &&
              strange->unknown_features);
}

TEST_F(ImageStoreTest, HeadersTellTheFormatUnlessItIsKnown) {
  const std::string qcow2 = Write("a.qcow2", Qcow2("base.raw", "raw"));
  const auto looked = store_->ReadHeader(qcow2, "");
  ASSERT_TRUE(looked.ok());
  EXPECT_EQ(looked->format, "qcow2");
  EXPECT_EQ(looked->capacity, 10 * kGiB);
  EXPECT_EQ(looked->granularity, 64 * kKiB);
  EXPECT_TRUE(looked->backing);
  EXPECT_EQ(looked->backing_path, directory_ + "/base.raw");
  EXPECT_EQ(looked->backing_format, "raw");
  EXPECT_FALSE(looked->backing_elsewhere);
  for (const auto& [name, elsewhere] :
       {std::pair("nbd://host/base", true), std::pair("json:{\"a\":1}", false),
        std::pair("fat:/srv/base", false)}) {
    const auto named = store_->ReadHeader(Write("b.qcow2", Qcow2(name, "")), "qcow2");
    ASSERT_TRUE(named.ok()) << named.status();
    EXPECT_TRUE(named->backing);
    EXPECT_EQ(named->backing_path, "") << name;
    EXPECT_EQ(named->backing_elsewhere, elsewhere) << name;
  }
  // A guest may write a header into its raw disk.
  const auto told = store_->ReadHeader(qcow2, "raw");
  ASSERT_TRUE(told.ok());
  EXPECT_EQ(told->format, "raw");
  EXPECT_FALSE(told->backing);
  EXPECT_EQ(store_->ReadHeader(Write("a.vmdk", "KDMV1234"), "")->format, "vmdk");
  EXPECT_EQ(store_->ReadHeader(Write("a.img", "anything"), "")->format, "raw");
  EXPECT_FALSE(store_->ReadHeader(directory_ + "/none", "").ok());
}

TEST(TimeReads, OfAFileOfItsOwnWhereThePageCacheCanBePassed) {
  const std::string directory = testing::TempDir() + "/reads-" + std::to_string(getpid());
  std::filesystem::create_directory(directory);
  const auto timer = NewImageStore()->TimeReads(directory + "/a.raw");
  if (timer.ok()) {
    const auto took = (*timer)();
    ASSERT_TRUE(took.ok()) << took.status();
    EXPECT_GT(*took, absl::ZeroDuration());
  } else {
    EXPECT_TRUE(absl::IsUnimplemented(timer.status())) << timer.status();
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory));
  std::filesystem::remove(directory);
  EXPECT_FALSE(NewImageStore()->TimeReads("/nonexistent/a.raw").ok());
}

TEST(TryHole, WhatTheFilesystemSaysIsLookedAt) {
  const std::string directory = testing::TempDir();
  const auto try_hole = [&](PunchCall punch) {
    const UniqueFd fd(open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    EXPECT_TRUE(fd.valid());
    return TryHole(fd.get(), punch);
  };
  const auto real = try_hole(KernelPunch);
  ASSERT_TRUE(real.ok()) << real.status();
  EXPECT_TRUE(*real);
  EXPECT_FALSE(try_hole([](int, size_t) { return EOPNOTSUPP; }).value());
  EXPECT_TRUE(absl::IsUnavailable(try_hole([](int, size_t) { return 0; }).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(try_hole([](int, size_t) { return EACCES; }).status()));
  EXPECT_TRUE(NewImageStore()->CanPunch(directory + "/a.raw").value());
}

TEST(PunchCost, IsMeasuredBesideTheImageAndLeavesNothing) {
  const std::string directory = testing::TempDir() + "/punch-" + std::to_string(getpid());
  std::filesystem::create_directory(directory);
  const auto cost = NewImageStore()->PunchCost(directory + "/a.raw");
  ASSERT_TRUE(cost.ok() || absl::IsResourceExhausted(cost.status())) << cost.status();
  if (cost.ok()) {
    EXPECT_GT(*cost, absl::ZeroDuration());
    EXPECT_LT(*cost, absl::Seconds(1));
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory));
  EXPECT_FALSE(NewImageStore()->PunchCost("/nonexistent/a.raw").ok());
}

TEST(LiesOn, IsBelowADirectoryOrOnAMountedFilesystem) {
  const std::string directory = testing::TempDir() + "/lies-" + std::to_string(getpid());
  std::filesystem::create_directories(directory + "/below");
  std::ofstream(directory + "/below/a.raw") << "x";
  std::filesystem::create_directory_symlink(directory + "/below", directory + "/link");
  const auto store = NewImageStore();
  const ImageFile image =
      store->Chain({"file", "raw", directory + "/link/a.raw"}, {}).value().front();
  EXPECT_EQ(store->LiesOn(image, directory).value(), true);
  EXPECT_EQ(store->LiesOn(image, directory + "/below/").value(), true);
  EXPECT_EQ(store->LiesOn(image, "/proc").value(), false);  // another filesystem
  EXPECT_EQ(store->LiesOn(image, "/etc").value(), false);
  EXPECT_TRUE(absl::IsNotFound(store->LiesOn(image, directory + "/gone").status()));
}

}  // namespace
}  // namespace virt_reclaim
