#include <gtest/gtest.h>

#include "base/byte_size.h"

namespace virt_reclaim {
namespace {

TEST(ParseByteSize, TakesPlainBytesAndSuffixes) {
  EXPECT_EQ(*ParseByteSize("0"), 0u);
  EXPECT_EQ(*ParseByteSize("4096"), 4096u);
  EXPECT_EQ(*ParseByteSize("64K"), 64 * kKiB);
  EXPECT_EQ(*ParseByteSize("64KiB"), 64 * kKiB);
  EXPECT_EQ(*ParseByteSize("64kb"), 64000u);
  EXPECT_EQ(*ParseByteSize("1.5G"), kGiB + kGiB / 2);
  EXPECT_EQ(*ParseByteSize(" 2 MiB "), 2 * kMiB);
  EXPECT_EQ(*ParseByteSize("18446744073709551615"), UINT64_MAX);
}

TEST(ParseByteSize, RefusesWhatIsNoSize) {
  for (const char* text : {"", "x", "-1", "1X", "1KK", "K", "1.2.3", "18446744073709551616", "16E",
                           "99999999999G", "0x10", "inf", "nan"}) {
    EXPECT_FALSE(ParseByteSize(text).ok()) << text;
  }
}

TEST(FormatByteSize, IsShortAndBinary) {
  EXPECT_EQ(FormatByteSize(0), "0 B");
  EXPECT_EQ(FormatByteSize(1023), "1023 B");
  EXPECT_EQ(FormatByteSize(1024), "1.0 KiB");
  EXPECT_EQ(FormatByteSize(10 * kMiB), "10.0 MiB");
  EXPECT_EQ(FormatByteSize(973 * kMiB), "973 MiB");
  EXPECT_EQ(FormatByteSize(kGiB - 1), "1.0 GiB");
  EXPECT_EQ(FormatByteSize(UINT64_MAX), "16.0 EiB");
  EXPECT_EQ(FormatSignedByteSize(-1024), "-1.0 KiB");
  EXPECT_EQ(FormatSignedByteSize(INT64_MIN), "-8.0 EiB");
}

}  // namespace
}  // namespace virt_reclaim
