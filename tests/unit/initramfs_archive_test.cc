// Archives as initramfs-tools and dracut make them, and as nobody should.
#include "host/guestfs/initramfs_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace virt_reclaim {
namespace {

std::string Entry(const std::string& name, const std::string& content = "", int mode = 0100644) {
  std::string entry = "070701";
  const size_t fields[] = {1, static_cast<size_t>(mode), 0, 0, 1, 0, content.size(), 0, 0, 0,
                           0, name.size() + 1,           0};
  for (const size_t field : fields) absl::StrAppendFormat(&entry, "%08X", field);
  absl::StrAppend(&entry, name, std::string(1, '\0'));
  entry.resize((entry.size() + 3) / 4 * 4);
  absl::StrAppend(&entry, content);
  entry.resize((entry.size() + 3) / 4 * 4);
  return entry;
}

std::string Archive(const std::vector<std::string>& names) {
  std::string archive = Entry("usr", "", 040755);
  for (const std::string& name : names) archive += Entry(name, "content of " + name);
  archive += Entry("TRAILER!!!");
  archive.resize((archive.size() + 511) / 512 * 512);
  return archive;
}

std::string Gzip(const std::string& text) {
  std::string out(text.size() + 1024, '\0');
  z_stream state = {};
  EXPECT_EQ(deflateInit2(&state, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  state.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  state.avail_in = static_cast<uInt>(text.size());
  state.next_out = reinterpret_cast<Bytef*>(out.data());
  state.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&state, Z_FINISH), Z_STREAM_END);
  out.resize(state.total_out);
  deflateEnd(&state);
  return out;
}

std::string Zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

std::string Xz(const std::string& text) {
  std::string out(lzma_stream_buffer_bound(text.size()), '\0');
  size_t size = 0;
  EXPECT_EQ(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, nullptr,
                                    reinterpret_cast<const uint8_t*>(text.data()), text.size(),
                                    reinterpret_cast<uint8_t*>(out.data()), &size, out.size()),
            LZMA_OK);
  out.resize(size);
  return out;
}

// In pieces of `piece` bytes, as a slow source gives them.
absl::StatusOr<std::string> List(const std::string& bytes, size_t piece = 1 << 20) {
  size_t at = 0;
  return ListInitramfsArchive([&](char* buffer, size_t size) -> absl::StatusOr<size_t> {
    const size_t n = std::min({size, piece, bytes.size() - at});
    std::memcpy(buffer, bytes.data() + at, n);
    at += n;
    return n;
  });
}

TEST(InitramfsArchiveTest, MicrocodeThenTheRest) {
  const std::string early = Archive({"kernel/x86/microcode/GenuineIntel.bin"});
  const std::string main = Archive({"init", "usr/lib/modules/6.1/virtio_scsi.ko.xz"});
  const std::string wanted =
      "kernel/x86/microcode/GenuineIntel.bin\ninit\nusr/lib/modules/6.1/virtio_scsi.ko.xz\n";
  for (const std::string& packed : {Gzip(main), Zstd(main), Xz(main), main}) {
    for (const size_t piece : {1, 7, 4096, 1 << 20}) {
      EXPECT_EQ(List(early + packed, piece).value_or("?"), wanted);
    }
    EXPECT_EQ(List(early + std::string(2048, '\0') + packed + std::string(512, '\0')).value_or("?"),
              wanted);
  }
}

TEST(InitramfsArchiveTest, MuchContent) {
  std::string archive = Entry("init");
  for (int i = 0; i < 100; ++i) {
    archive += Entry(absl::StrCat("f", i), std::string(100'003, static_cast<char>('a' + i % 26)));
  }
  archive += Entry("TRAILER!!!");
  for (const std::string& packed : {Gzip(archive), Zstd(archive), Xz(archive)}) {
    const auto listing = List(packed);
    ASSERT_TRUE(listing.ok()) << listing.status();
    EXPECT_THAT(*listing, testing::EndsWith("f98\nf99\n"));
  }
}

TEST(InitramfsArchiveTest, CutOffAnywhereIsNeverHalfAList) {
  const std::string main = Archive({"init", "lib/virtio_scsi.ko"});
  const std::string whole = Archive({"microcode"}) + Zstd(main);
  const size_t early = Archive({"microcode"}).size();
  for (size_t size = early + 1; size < whole.size(); ++size) {
    EXPECT_FALSE(List(whole.substr(0, size)).ok()) << size;
  }
  for (size_t size = 1; size < main.size() - 512; ++size)
    EXPECT_FALSE(List(main.substr(0, size)).ok());
  for (const std::string& packed : {Gzip(main), Xz(main)}) {
    for (size_t size = 1; size + 12 < packed.size(); ++size) {
      EXPECT_FALSE(List(packed.substr(0, size)).ok()) << size;
    }
  }
}

TEST(InitramfsArchiveTest, Damaged) {
  const std::string packed = Zstd(Archive({"init", "lib/virtio_scsi.ko"}));
  for (size_t i = 0; i < packed.size(); ++i) {
    std::string damaged = packed;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x55);
    List(damaged).IgnoreError();  // an end and no crash; a bit in a content changes no name
  }
  EXPECT_TRUE(absl::IsUnimplemented(List("\x04\x22\x4d\x18 lz4").status()));
  EXPECT_TRUE(absl::IsUnimplemented(List("BZh91AY").status()));
  EXPECT_TRUE(absl::IsUnimplemented(List(Gzip(Gzip(Archive({"init"})))).status()));
  EXPECT_FALSE(List("070701zzzz").ok());
  EXPECT_EQ(List("").value_or("?"), "");
}

TEST(InitramfsArchiveTest, HostileNames) {
  EXPECT_EQ(List(Archive({"a\nlib/virtio_scsi.ko", "b"})).value_or("?"), "b\n");
  std::string huge_name = Entry("a");
  huge_name.replace(94, 8, "7FFFFFFF");
  EXPECT_FALSE(List(huge_name).ok());
  std::string huge_file = Entry("a");
  huge_file.replace(54, 8, "FFFFFFFF");
  EXPECT_FALSE(List(huge_file).ok());
}

TEST(InitramfsArchiveTest, Limits) {
  std::string many;
  for (int i = 0; i < 100; ++i) many += Archive({"a"});
  EXPECT_TRUE(absl::IsResourceExhausted(List(many).status()));
  std::string names;
  for (int i = 0; i < 3000; ++i) names += Entry(std::string(4000, 'x'));
  EXPECT_TRUE(absl::IsResourceExhausted(List(names).status()));
  // 3 GiB of zeroes in 100 KiB.
  std::string bomb = Entry("a");
  bomb.replace(54, 8, "C0000000");
  const std::string zeroes(64 << 20, '\0');
  std::string packed(ZSTD_compressBound(zeroes.size()), '\0');
  ZSTD_CStream* stream = ZSTD_createCStream();
  ZSTD_outBuffer out = {packed.data(), packed.size(), 0};
  ZSTD_inBuffer in = {bomb.data(), bomb.size(), 0};
  ZSTD_compressStream(stream, &out, &in);
  for (int i = 0; i < 40; ++i) {
    in = {zeroes.data(), zeroes.size(), 0};
    while (in.pos < in.size) ZSTD_compressStream(stream, &out, &in);
  }
  ZSTD_endStream(stream, &out);
  ZSTD_freeCStream(stream);
  packed.resize(out.pos);
  EXPECT_TRUE(absl::IsResourceExhausted(List(packed).status()));
  size_t given = 0;
  const auto endless =
      ListInitramfsArchive([&](char* buffer, size_t size) -> absl::StatusOr<size_t> {
        std::memset(buffer, 0, size);
        given += size;
        return size;
      });
  EXPECT_TRUE(absl::IsResourceExhausted(endless.status()));
  EXPECT_LT(given, kMaxInitramfsBytes + (4 << 20));
}

}  // namespace
}  // namespace virt_reclaim
