// Names into valid UTF-8 and JSON, errno names, os-release.
#include <gmock/gmock.h>

#include <cerrno>

#include "base/utf8.h"
#include "guest-agent/guest_info.h"
#include "guest-agent/json.h"
#include "guest-agent/obstacle.h"

namespace virt_reclaim::agent {
namespace {

TEST(Utf8Test, KeepsWhatIsValid) {
  for (const char* text : {"", "/mnt", "/größe", "/数据", "/\xf0\x9f\x92\xbe", "a\\b\n"})
    EXPECT_EQ(Utf8(text), text);
}

TEST(Utf8Test, EscapesEachWrongByte) {
  EXPECT_EQ(Utf8("a\xff"), "a\\xff");
  EXPECT_EQ(Utf8("\xc3"), "\\xc3");                             // cut off
  EXPECT_EQ(Utf8("\xc0\xaf"), "\\xc0\\xaf");                    // overlong
  EXPECT_EQ(Utf8("\xe0\x80\xaf"), "\\xe0\\x80\\xaf");           // overlong
  EXPECT_EQ(Utf8("\xed\xa0\x80"), "\\xed\\xa0\\x80");           // surrogate
  EXPECT_EQ(Utf8("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");  // above U+10FFFF
  EXPECT_EQ(Utf8("\x80z"), "\\x80z");
}

TEST(Utf8Test, CutInTheMiddleOfACharacterStaysValid) {
  EXPECT_EQ(Utf8("ab\xc3\xa4", 3), "ab\\xc3");
}

std::string Json(absl::string_view value) {
  JsonWriter json;
  json.String(value);
  std::string text = json.Take();
  text.pop_back();
  return text;
}

TEST(JsonTest, StringsArePureAsciiAndExact) {
  EXPECT_EQ(Json("plain"), R"("plain")");
  EXPECT_EQ(Json("a\"b\\c"), R"("a\"b\\c")");
  EXPECT_EQ(Json("\x1b[2J\n"), R"("\u001b[2J\u000a")");
  EXPECT_EQ(Json("\xc3\xa4"), R"("\u00e4")");
  EXPECT_EQ(Json("\xe2\x80\xae"), R"("\u202e")");
  EXPECT_EQ(Json("\xf0\x9f\x92\xbe"), R"("\ud83d\udcbe")");
  EXPECT_EQ(Json("\xff"), R"("\\xff")");
}

TEST(JsonTest, Nesting) {
  JsonWriter json;
  json.BeginObject();
  json.Field("n", uint64_t{18446744073709551615U});
  json.Flag("yes", true);
  json.Key("empty");
  json.BeginArray();
  json.EndArray();
  json.Strings("list", {"a", "b"});
  json.EndObject();
  EXPECT_EQ(json.Take(),
            "{\n  \"n\": 18446744073709551615,\n  \"yes\": true,\n  \"empty\": [],\n  \"list\": "
            "[\n    \"a\",\n    \"b\"\n"
            "  ]\n}\n");
}

TEST(ObstacleTest, NamesOfErrors) {
  EXPECT_EQ(ErrnoName(ENOTTY), "ENOTTY");
  EXPECT_EQ(ErrnoName(EOPNOTSUPP), "EOPNOTSUPP");
  EXPECT_EQ(ErrnoName(EIO), "EIO");
  EXPECT_EQ(ErrnoName(4095), "errno 4095");
}

TEST(ObstacleTest, EachHasANameAndASentence) {
  for (int i = 1; i <= 11; ++i) {
    const auto obstacle = static_cast<Obstacle>(i);
    EXPECT_NE(ObstacleName(obstacle), "unknown");
    EXPECT_NE(DescribeObstacle({obstacle, "dm-0"}), "unknown");
  }
  EXPECT_EQ(DescribeObstacle({Obstacle::kDmCrypt, "dm-0"}),
            "dm-crypt device 'dm-0' does not allow discards");
}

TEST(GuestInfoTest, PrettyName) {
  EXPECT_EQ(PrettyName("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)");
  EXPECT_EQ(PrettyName("PRETTY_NAME='A \\'B'"), "A 'B");
  EXPECT_EQ(PrettyName("PRETTY_NAME=Alpine"), "Alpine");
  EXPECT_EQ(PrettyName("PRETTY_NAME="), "");
  EXPECT_EQ(PrettyName("nothing"), "");
  EXPECT_FALSE(GuestInfoReader().Read().kernel_release.empty());
}

}  // namespace
}  // namespace virt_reclaim::agent
