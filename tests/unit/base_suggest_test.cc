#include <gtest/gtest.h>

#include <vector>

#include "base/suggest.h"

namespace virt_reclaim {
namespace {

const std::vector<std::string> kWords{"report", "trim", "migrate", "--json", "--dry-run"};

TEST(NearestWord, FindsTypingErrors) {
  EXPECT_EQ(NearestWord("repotr", kWords), "report");
  EXPECT_EQ(NearestWord("tirm", kWords), "trim");        // two letters swapped are one edit
  EXPECT_EQ(NearestWord("tarn", kWords), std::nullopt);  // two of four letters: too far to guess
  EXPECT_EQ(NearestWord("trimm", kWords), "trim");
  EXPECT_EQ(NearestWord("--jsn", kWords), "--json");
  EXPECT_EQ(NearestWord("--dryrun", kWords), "--dry-run");
}

TEST(NearestWord, IsSilentForStrangers) {
  EXPECT_EQ(NearestWord("", kWords), std::nullopt);
  EXPECT_EQ(NearestWord("sparsify", kWords), std::nullopt);
  EXPECT_EQ(NearestWord(std::string(1 << 20, 'r'), kWords), std::nullopt);
}

}  // namespace
}  // namespace virt_reclaim
