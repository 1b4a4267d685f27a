#include <gtest/gtest.h>

#include "base/escape.h"

namespace virt_reclaim {
namespace {

TEST(Printable, LeavesHonestTextAlone) {
  EXPECT_EQ(Printable("/mnt/data (1)"), "/mnt/data (1)");
  EXPECT_EQ(Printable("/srv/B\xc3\xbc"
                      "cher/\xe6\x97\xa5"),
            "/srv/B\xc3\xbc"
            "cher/\xe6\x97\xa5");
}

TEST(Printable, NothingMovesTheCursorOrHidesText) {
  EXPECT_EQ(Printable("a\x1b[2Jb\nc\rd\t"), "a\\x1b[2Jb\\x0ac\\x0dd\\x09");
  EXPECT_EQ(Printable(absl::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(Printable("\x7f\xc2\x9b"), "\\x7f\\xc2\\x9b");  // DEL, C1 CSI
  EXPECT_EQ(Printable("a\xe2\x80\xae"
                      "b"),
            "a\\xe2\\x80\\xae"
            "b");  // right-to-left override
  EXPECT_EQ(Printable("a\xe2\x80\x8b"
                      "b"),
            "a\\xe2\\x80\\x8b"
            "b");  // zero width space
}

TEST(Printable, InvalidUtf8IsEscapedByteByByte) {
  EXPECT_EQ(Printable("\xff"), "\\xff");
  EXPECT_EQ(Printable("\xc0\xaf"), "\\xc0\\xaf");           // overlong '/'
  EXPECT_EQ(Printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // surrogate
  EXPECT_EQ(Printable("\xe6\x97"), "\\xe6\\x97");           // cut sequence
  EXPECT_EQ(Printable("\xf8\x88\x80\x80\x80"), "\\xf8\\x88\\x80\\x80\\x80");
}

TEST(Printable, IsIdempotent) {
  const std::string once = Printable("a\x1b\xff\\");
  EXPECT_EQ(once, "a\\x1b\\xff\\");
  EXPECT_EQ(Printable(once), once);
}

TEST(Printable, IsBounded) {
  EXPECT_EQ(Printable(std::string(100, 'a'), 10), std::string(10, 'a') + "...");
  EXPECT_LE(Printable(std::string(1 << 20, '\n')).size(), 4 * kMaxPrintedBytes + 3);
}

TEST(Quoted, IsPrintableInSingleQuotes) {
  EXPECT_EQ(Quoted("/mnt/a b"), "'/mnt/a b'");
  EXPECT_EQ(Quoted("a\x1b"), "'a\\x1b'");
  EXPECT_EQ(Quoted(std::string(100, 'a'), 10), "'" + std::string(10, 'a') + "...'");
}

}  // namespace
}  // namespace virt_reclaim
