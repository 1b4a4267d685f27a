// The rewriter on whole files: NAME.in.xml becomes NAME.out.xml with NAME.reasons (and the options
// of NAME.args, when there is one), or nothing when
// NAME.reasons is an error. VIRT_RECLAIM_UPDATE_GOLDEN=1 writes the expected files anew; read the
// difference before it is committed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/io.h"
#include "xml-tools/document.h"
#include "xml-tools/options.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {
namespace {

namespace fs = std::filesystem;

constexpr char kDirectory[] = VIRT_RECLAIM_TESTS_DIR "/golden/xml";

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kDirectory)) {
    const std::string file = entry.path().filename().string();
    if (absl::EndsWith(file, ".in.xml")) names.push_back(file.substr(0, file.size() - 7));
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string PathOf(const std::string& name, absl::string_view kind) {
  return absl::StrCat(kDirectory, "/", name, ".", kind);
}

std::string Read(const std::string& path) {
  auto text = ReadFile(path, kMaxXmlBytes);
  return text.ok() ? *std::move(text) : absl::StrCat("(", text.status().message(), ")");
}

// NAME.args: words of virt-reclaim-xml's command line.
RewriteOptions OptionsOf(const std::string& name) {
  const std::string path = PathOf(name, "args");
  if (!fs::exists(path)) return {};
  const std::vector<std::string> words =
      absl::StrSplit(Read(path), absl::ByAnyChar(" \n"), absl::SkipEmpty());
  const auto options = ParseOptions(words);
  EXPECT_TRUE(options.ok()) << name << ": " << options.status();
  return options.ok() ? options->rewrite : RewriteOptions();
}

std::string Who(const std::string& target) {
  return target.empty() ? "domain" : absl::StrCat("disk '", target, "'");
}

std::string Reasons(const absl::StatusOr<Rewritten>& result) {
  if (!result.ok())
    return absl::StrCat("error: ", absl::StatusCodeToString(result.status().code()), ": ",
                        result.status().message(), "\n");
  std::string out;
  for (const Change& c : result->changes) {
    absl::StrAppend(&out, "change: ", Who(c.target), ": ", c.what, ": ",
                    c.before.empty() ? "(not set)" : c.before, " -> ", c.after, ": ", c.reason,
                    "\n");
  }
  for (const Refusal& r : result->refusals)
    absl::StrAppend(&out, "refusal: ", Who(r.target), ": ", r.reason, ": ", r.detail, "\n");
  for (const Refusal& r : result->warnings)
    absl::StrAppend(&out, "warning: ", Who(r.target), ": ", r.reason, ": ", r.detail, "\n");
  return out;
}

// Erases each `piece`, in both kinds of quotes, with the blanks before it (one line end at most).
void EraseAll(std::string& text, const std::string& piece) {
  for (const char quote : {'\'', '"'}) {
    std::string quoted = piece;
    std::replace(quoted.begin(), quoted.end(), '\'', quote);
    for (size_t at; (at = text.find(quoted)) != std::string::npos;) {
      size_t begin = at;
      while (begin > 0 && (text[begin - 1] == ' ' || text[begin - 1] == '\t')) --begin;
      if (begin > 0 && text[begin - 1] == '\n') --begin;
      if (begin > 0 && text[begin - 1] == '\r') --begin;
      text.erase(begin, at + quoted.size() - begin);
    }
  }
}

// The text without all that an edit may add or change; written without the rewriter's own knowledge
// of the document.
std::string WithoutAllowedChanges(std::string text) {
  for (const char* piece :
       {"discard='unmap'", "discard='ignore'", "discard = 'ignore'", "discard = 'unmap'",
        "discard='ignor&#x65;'", "<driver name='qemu'/>"}) {
    EraseAll(text, piece);
  }
  const size_t machine = text.find("machine=");
  if (machine == std::string::npos) return text;
  const size_t end = text.find(text[machine + 8], machine + 9);
  const size_t dash = text.rfind('-', end);
  const std::string version = text.substr(dash + 1, end - dash - 1);
  const bool is_version = version.find_first_not_of("0123456789.&#;") == std::string::npos;
  return dash > machine && is_version ? text.replace(dash + 1, version.size(), "VERSION") : text;
}

class GoldenTest : public testing::TestWithParam<std::string> {};

TEST_P(GoldenTest, IsAsWrittenDown) {
  const auto result = Rewrite(Read(PathOf(GetParam(), "in.xml")), OptionsOf(GetParam()));
  if (std::getenv("VIRT_RECLAIM_UPDATE_GOLDEN") != nullptr) {
    ASSERT_TRUE(WriteFileDurably(PathOf(GetParam(), "reasons"), Reasons(result), 0644).ok());
    if (result.ok()) {
      ASSERT_TRUE(WriteFileDurably(PathOf(GetParam(), "out.xml"), result->text, 0644).ok());
    }
  }
  EXPECT_EQ(Reasons(result), Read(PathOf(GetParam(), "reasons")));
  EXPECT_EQ(result.ok(), fs::exists(PathOf(GetParam(), "out.xml")));
  if (!result.ok()) return;
  EXPECT_EQ(result->text, Read(PathOf(GetParam(), "out.xml")));
}

TEST_P(GoldenTest, SecondRunChangesNothing) {
  const auto once = Rewrite(Read(PathOf(GetParam(), "in.xml")), OptionsOf(GetParam()));
  if (!once.ok()) return;
  const auto twice = Rewrite(once->text, OptionsOf(GetParam()));
  ASSERT_TRUE(twice.ok()) << twice.status();
  EXPECT_THAT(twice->changes, testing::IsEmpty());
  EXPECT_EQ(twice->text, once->text);
}

TEST_P(GoldenTest, OnlyAllowedBytesChange) {
  const std::string before = Read(PathOf(GetParam(), "in.xml"));
  const auto result = Rewrite(before, OptionsOf(GetParam()));
  if (!result.ok()) return;
  EXPECT_EQ(result->changes.empty(), result->text == before);
  // With options of its own more may change; tests/xml-corpus looks at that in every mode.
  if (fs::exists(PathOf(GetParam(), "args"))) return;
  EXPECT_EQ(WithoutAllowedChanges(result->text), WithoutAllowedChanges(before));
}

// What the filter prints as --diff turns the input into the output.
TEST_P(GoldenTest, DiffIsEmptyExactlyWhenNothingChanged) {
  const std::string before = Read(PathOf(GetParam(), "in.xml"));
  const auto result = Rewrite(before, OptionsOf(GetParam()));
  if (!result.ok()) return;
  EXPECT_EQ(UnifiedDiff(before, result->text, "a", "b").empty(), result->changes.empty());
}

TEST_P(GoldenTest, CutOffAnywhereIsAStatus) {
  const std::string text = Read(PathOf(GetParam(), "in.xml"));
  for (size_t length = 0; length + 8 < text.size(); length += 7) {
    const auto result = Rewrite(text.substr(0, length), OptionsOf(GetParam()));
    EXPECT_FALSE(absl::IsInternal(result.status())) << result.status() << " at " << length;
  }
}

INSTANTIATE_TEST_SUITE_P(Xml, GoldenTest, testing::ValuesIn(Names()), [](const auto& test) {
  std::string name = test.param;
  std::replace_if(
      name.begin(), name.end(),
      [](char c) { return !absl::ascii_isalnum(static_cast<unsigned char>(c)); }, '_');
  return name;
});

}  // namespace
}  // namespace virt_reclaim::xml
