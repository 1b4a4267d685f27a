// The drop-in's small parts; the whole of it is tests/sparsify/drop_in_test.py.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/byte_size.h"
#include "host/cli/run_directory.h"
#include "host/cli/virt_sparsify_line.h"
#include "host/cli/virt_sparsify_speaker.h"
#include "host/cli/virt_sparsify_tmp.h"

namespace virt_reclaim {
namespace {

TEST(VirtSparsifyTest, SizesAsLibguestfsPrintsThem) {
  EXPECT_EQ(HumanSize(0), "0");
  EXPECT_EQ(HumanSize(1023), "1023");
  EXPECT_EQ(HumanSize(1024), "1.0K");
  EXPECT_EQ(HumanSize(1536), "1.5K");
  EXPECT_EQ(HumanSize(10 * kMiB), "10M");
  EXPECT_EQ(HumanSize(kGiB - 1), "1.0G");
  EXPECT_EQ(HumanSize(40 * kGiB), "40G");
  EXPECT_EQ(HumanSize(~uint64_t{0}), "16E");
}

TEST(VirtSparsifyTest, RoomForTheOverlay) {
  EXPECT_EQ(TooLittleSpace("/tmp", 0), "");
  EXPECT_EQ(TooLittleSpace("/no/such/directory", ~uint64_t{0}), "");
  const std::string text = TooLittleSpace("/", ~uint64_t{0});
  EXPECT_EQ(text.find("There may not be enough free space on /.\n"), 0u) << text;
  EXPECT_NE(text.find("Max needed: 16E.  Free: "), std::string::npos) << text;
}

VirtSparsifyEnd EndOf(const std::vector<std::string>& arguments) {
  auto parsed = ParseVirtSparsify(arguments);
  auto* end = std::get_if<VirtSparsifyEnd>(&parsed);
  if (end == nullptr) return {"", "a line", -1};
  EXPECT_EQ(end->err, "");
  EXPECT_EQ(end->status, 0);
  return *end;
}

// As virt-sparsify 1.48 prints it, which needs 8 s and an appliance for that.
TEST(VirtSparsifyTest, WhatItCan) {
  constexpr char kCan[] =
      "virt-sparsify\nlinux-swap\nzero\ncheck-tmpdir\nin-place\ntmp-option\nntfs\nbtrfs\n";
  EXPECT_EQ(EndOf({"--machine-readable"}).out, kCan);
  EXPECT_EQ(EndOf({"--in-place", "--machine-readable=stream:stderr"}).out, kCan);
  EXPECT_EQ(EndOf({"--machine-readable", "--in-place", "a"}).err, "a line");
}

// Each option that is taken, and none besides.
TEST(VirtSparsifyTest, TheHelpNamesEveryOption) {
  const std::string help = EndOf({"--help"}).out;
  EXPECT_EQ(EndOf({"--help", "a", "b", "c"}).out, help);
  std::set<std::string> named;
  for (absl::string_view line : absl::StrSplit(help, '\n')) {
    if (!absl::ConsumePrefix(&line, "  -")) continue;
    line = line.substr(0, line.find("  "));
    for (const absl::string_view word : absl::StrSplit(absl::StrCat("-", line), ", "))
      named.insert(std::string(word.substr(0, word.find_first_of(" [<"))));
  }
  std::set<std::string> taken = {"-o", "-q", "-v", "-x", "-V"};
  for (const absl::string_view option :
       absl::StrSplit(EndOf({"--long-options"}).out, '\n', absl::SkipEmpty()))
    taken.insert(std::string(option));
  EXPECT_EQ(taken.erase("--debug-gc"), 1u);  // for libguestfs's own tests
  EXPECT_EQ(named, taken);
}

TEST(VirtSparsifyTest, AnErrorOfSeveralLines) {
  std::string out;
  std::string err;
  VirtSparsifyStreams streams;
  streams.out = [&](absl::string_view text) { absl::StrAppend(&out, text); };
  streams.err = [&](absl::string_view text) { absl::StrAppend(&err, text); };
  VirtSparsifyLine line;
  line.machine_readable = line.verbose = line.trace = true;
  const auto speaker = VirtSparsifySpeaker::Make(line, streams);
  ASSERT_TRUE(speaker.ok()) << speaker.status();
  EXPECT_EQ(speaker->Error("first\nsecond\x1b"), 1);
  EXPECT_EQ(err, "virt-sparsify: error: first\nsecond\\x1b\n");
  EXPECT_NE(out.find(R"("message": "first\nsecond\\x1b")"), std::string::npos) << out;
}

TEST(RunDirectoryTest, RootsOrOnesOwn) {
  const std::string runtime =
      testing::TempDir() + "virt-reclaim-runtime-" + std::to_string(getpid());
  std::filesystem::create_directories(runtime);
  const auto path = [](const auto& directory) {
    return directory.ok() ? directory->path() : directory.status().ToString();
  };
  EXPECT_EQ(path(RunDirectory::Choose("/my/own", false, runtime.c_str())), "/my/own");
  EXPECT_EQ(path(RunDirectory::Choose(kRootsRunDirectory, true, runtime.c_str())),
            kRootsRunDirectory);
  EXPECT_EQ(path(RunDirectory::Choose(kRootsRunDirectory, false, runtime.c_str())),
            runtime + "/virt-reclaim");
  std::string temporary;
  for (const char* none : {static_cast<const char*>(nullptr), "", "relative", "/no/such/place"}) {
    const auto directory = RunDirectory::Choose(kRootsRunDirectory, false, none);
    temporary = path(directory);
    EXPECT_NE(temporary.find("/virt-reclaim-run-"), std::string::npos) << temporary;
    EXPECT_TRUE(std::filesystem::is_directory(temporary));
  }
  EXPECT_FALSE(std::filesystem::exists(temporary));
  std::filesystem::remove_all(runtime);
}

}  // namespace
}  // namespace virt_reclaim
