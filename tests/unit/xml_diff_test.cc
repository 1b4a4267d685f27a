// UnifiedDiff, and against diff and patch themselves where the machine has them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/io.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {
namespace {

TEST(UnifiedDiffTest, EmptyWhenEqual) {
  EXPECT_EQ(UnifiedDiff("a\n", "a\n", "x", "y"), "");
  EXPECT_EQ(UnifiedDiff("", "", "x", "y"), "");
}

TEST(UnifiedDiffTest, CountsLinesAsDiffDoes) {
  EXPECT_EQ(UnifiedDiff("a\n", "b\n", "x", "y"), "--- x\n+++ y\n@@ -1 +1 @@\n-a\n+b\n");
  EXPECT_EQ(UnifiedDiff("", "a\nb\n", "x", "y"), "--- x\n+++ y\n@@ -0,0 +1,2 @@\n+a\n+b\n");
  EXPECT_EQ(UnifiedDiff("a\n", "", "x", "y"), "--- x\n+++ y\n@@ -1 +0,0 @@\n-a\n");
  EXPECT_EQ(UnifiedDiff("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nx\n6\n7\n8\n9\n", "x", "y"),
            "--- x\n+++ y\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n");
}

TEST(UnifiedDiffTest, SaysWhenTheLastNewlineIsMissing) {
  EXPECT_EQ(UnifiedDiff("a\nb", "a\nb\n", "x", "y"),
            "--- x\n+++ y\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n");
  EXPECT_EQ(UnifiedDiff("a\nb", "c\nb", "x", "y"),
            "--- x\n+++ y\n@@ -1,2 +1,2 @@\n-a\n+c\n b\n\\ No newline at end of file\n");
}

TEST(UnifiedDiffTest, InsertionsStandAsFarDownAsTheyCan) {
  EXPECT_EQ(UnifiedDiff("a\nb\nb\nc\n", "a\nb\nb\nb\nc\n", "x", "y"),
            "--- x\n+++ y\n@@ -1,4 +1,5 @@\n a\n b\n b\n+b\n c\n");
}

TEST(UnifiedDiffTest, FarApartChangesAreHunksOfTheirOwn) {
  std::string before, after;
  for (int i = 0; i < 30; ++i) {
    absl::StrAppend(&before, i, "\n");
    absl::StrAppend(&after, i == 5 || i == 20 ? 100 + i : i, "\n");
  }
  const std::string diff = UnifiedDiff(before, after, "x", "y");
  EXPECT_NE(diff.find("@@ -3,7 +3,7 @@"), std::string::npos) << diff;
  EXPECT_NE(diff.find("@@ -18,7 +18,7 @@"), std::string::npos) << diff;
}

TEST(UnifiedDiffTest, TextsWithNothingInCommonTakeNoTime) {
  std::string before, after;
  for (int i = 0; i < 100'000; ++i)
    absl::StrAppend(&before, i, "\n"), absl::StrAppend(&after, "x", i, "\n");
  EXPECT_EQ(UnifiedDiff(before, after, "x", "y").substr(0, 40),
            "--- x\n+++ y\n@@ -1,100000 +1,100000 @@\n-0");
}

// 150 pairs of small texts over few different lines, where the shortest script is far from unique:
// patch must make the one of the other.
TEST(UnifiedDiffTest, PatchAppliesIt) {
  if (std::system("patch --version >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "no patch on this machine";
  char directory[] = "/tmp/xml-diff-test.XXXXXX";
  ASSERT_NE(mkdtemp(directory), nullptr);
  const std::string file = absl::StrCat(directory, "/f"), diff_file = absl::StrCat(directory, "/d");
  std::mt19937 random(1);
  const auto text = [&] {
    std::string out;
    for (size_t i = random() % 25; i > 0; --i)
      absl::StrAppend(&out, std::string(1, static_cast<char>('a' + random() % 4)), "\n");
    if (!out.empty() && random() % 4 == 0) out.pop_back();
    return out;
  };
  for (int i = 0; i < 150; ++i) {
    const std::string before = text(), after = text();
    if (before == after || before.empty() || after.empty()) continue;
    ASSERT_TRUE(WriteFileDurably(file, before, 0600).ok());
    ASSERT_TRUE(WriteFileDurably(diff_file, UnifiedDiff(before, after, "f", "f"), 0600).ok());
    ASSERT_EQ(
        std::system(absl::StrCat("patch -s -F0 ", file, " ", diff_file, " >/dev/null").c_str()), 0)
        << before << "->\n"
        << after;
    ASSERT_EQ(*ReadFile(file, 1000), after);
  }
  EXPECT_EQ(std::system(absl::StrCat("rm -r ", directory).c_str()), 0);
}

}  // namespace
}  // namespace virt_reclaim::xml
