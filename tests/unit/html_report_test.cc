// The page of `report --html`, and metrics as text: whatever a domain is called.
#include "host/cli/html_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/byte_size.h"
#include "base/io.h"
#include "host/cli/metrics_output.h"
#include "host/cli/program.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr char kHostile[] = "</title><script>alert('x')</script>\"&\x1b[31m";

Overview Hostile() {
  Overview overview;
  overview.hypervisor = kHostile;
  overview.version = "1.2.3";
  overview.now = absl::FromUnixSeconds(1'700'000'000);
  overview.disks = 2;
  overview.disks_with_guest = 1;
  OverviewDisk disk;
  disk.target = disk.format = disk.storage = kHostile;
  disk.capacity = 4 * kGiB;
  disk.allocation = 3 * kGiB;
  disk.reclaimable = kGiB;
  disk.blockers = {{Reason::kDiscardIgnored, kHostile}};
  const absl::Time then = overview.now - absl::Hours(240);
  disk.history = {{then, kGiB}, {then + absl::Hours(24), 2 * kGiB}, {overview.now, 3 * kGiB}};
  OverviewDomain domain;
  domain.name = kHostile;
  domain.agent = Blocker{Reason::kAgentSilent, kHostile};
  domain.last_trim = TrimRecord();
  domain.last_trim->began = overview.now;
  domain.last_trim->status = kHostile;
  domain.disks = {disk};
  OverviewDomain failed;
  failed.name = "failed";
  failed.examined = false;
  failed.error = kHostile;
  overview.domains = {domain, failed};
  OverviewStorage storage;
  storage.name = kHostile;
  storage.capacity = 10 * kGiB;
  storage.available = 5 * kGiB;
  storage.images = 3 * kGiB;
  overview.storages = {storage};
  AddGrowth(overview);
  return overview;
}

size_t CountOf(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(HtmlText, NothingInItIsMarkup) {
  EXPECT_EQ(HtmlText("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  EXPECT_EQ(HtmlText("\x1b[2J\xff"), "\\x1b[2J\\xff");
}

TEST(HtmlReport, HostileNamesAreText) {
  const std::string page = HtmlReport(Hostile());
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("alert('x')")));
  EXPECT_THAT(page, Not(HasSubstr("\x1b")));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;"));
  EXPECT_EQ(CountOf(page, "</title>"), 1u);
}

TEST(HtmlReport, LoadsNothingFromElsewhere) {
  const std::string page = HtmlReport(Hostile());
  for (const char* word : {"http://", "https://", "url(", "@import", "javascript:", "src="})
    EXPECT_THAT(page, Not(HasSubstr(word)));
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
}

TEST(HtmlReport, EveryElementIsClosed) {
  const std::string page = HtmlReport(Hostile());
  for (const std::string element :
       {"div",  "section", "table", "tr", "td",    "th",    "p",     "h1",   "h2",   "h3",  "svg",
        "code", "span",    "b",     "i",  "thead", "tbody", "style", "head", "body", "html"}) {
    const size_t opened = CountOf(page, "<" + element + ">") + CountOf(page, "<" + element + " ");
    EXPECT_EQ(opened, CountOf(page, "</" + element + ">")) << element;
  }
}

TEST(HtmlReport, SaysWhatTheReclaimableSpaceIsMadeOf) {
  Overview overview = Hostile();
  std::string page = HtmlReport(overview);
  EXPECT_THAT(page, HasSubstr(">~1.0 GiB<"));
  EXPECT_THAT(page, Not(HasSubstr("by exact maps")));
  overview.domains[0].disks[0].exact = true;
  page = HtmlReport(overview);
  EXPECT_THAT(page, HasSubstr(">1.0 GiB<"));
  EXPECT_THAT(page, Not(HasSubstr("~1.0 GiB")));
  EXPECT_THAT(page, HasSubstr("of 1 disk by exact maps"));
  overview.domains[0].disks[0].reclaimable.reset();
  EXPECT_THAT(HtmlReport(overview), Not(HasSubstr("~-")));
}

TEST(HtmlReport, SaysWhenTheStorageIsFull) {
  Overview overview = Hostile();
  EXPECT_EQ(overview.storages[0].forecast.kind, ForecastKind::kFull);
  EXPECT_THAT(HtmlReport(overview), HasSubstr("Full about 20"));
  overview.storages[0].forecast.kind = ForecastKind::kUnknown;
  EXPECT_THAT(HtmlReport(overview), HasSubstr("No forecast yet"));
  overview.storages[0].forecast.kind = ForecastKind::kNotGrowing;
  EXPECT_THAT(HtmlReport(overview), HasSubstr("do not grow"));
  overview.storages[0].forecast.kind = ForecastKind::kFar;
  EXPECT_THAT(HtmlReport(overview), HasSubstr("within ten years"));
  overview.storages[0].available = 0;
  EXPECT_THAT(HtmlReport(overview), HasSubstr("It is full."));
}

TEST(HtmlReport, OfNothingThereIsAPage) {
  const std::string page = HtmlReport(Overview());
  EXPECT_THAT(page, HasSubstr("No image is a file of this machine."));
  EXPECT_THAT(page, HasSubstr("</html>"));
}

TEST(MetricsText, LabelsAreEscaped) {
  EXPECT_EQ(
      MetricsText({{"a_bytes", "Some \\ help.", {{{{"domain", "a\\\"b\nc"}}, 0.5}, {{}, 3}}}}),
      "# HELP a_bytes Some \\\\ help.\n# TYPE a_bytes gauge\n"
      "a_bytes{domain=\"a\\\\\\\"b\\nc\"} 0.5\na_bytes 3\n");
}

TEST(MetricsText, WholeNumbersStayWhole) {
  EXPECT_EQ(MetricsText({{"a", "A.", {{{}, 1099511627776}, {{}, -4096}, {{}, 1e300}}}}),
            "# HELP a A.\n# TYPE a gauge\na 1099511627776\na -4096\na 1e+300\n");
}

class OverviewFilesTest : public testing::Test {
 protected:
  ProgramResult Run(const std::vector<std::string>& arguments) {
    ProgressLine progress(STDERR_FILENO);
    return RunProgram(
        arguments,
        [&](const CommandLine& line, const std::function<void(const Services&)>& use) {
          if (line.connect == "down:///") return absl::UnavailableError("down");
          use(world_.services());
          return absl::OkStatus();
        },
        progress, {});
  }
  std::string Path(const std::string& name) const { return world_.directory() + "/" + name; }
  std::string Read(const std::string& name) const {
    return ReadFile(Path(name), kMiB).value_or("-");
  }

  FakeWorld world_;
};

TEST_F(OverviewFilesTest, MetricsGoToTheFileAndNowhereElse) {
  const ProgramResult result = Run({"metrics", "--textfile", Path("x.prom")});
  EXPECT_EQ(result.status, ExitStatus::kDone);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(Read("x.prom"), HasSubstr("\nvirt_reclaim_collect_success 1\n"));
}

TEST_F(OverviewFilesTest, ADryRunPrintsThem) {
  const ProgramResult result = Run({"metrics", "-n", "--textfile", Path("x.prom")});
  EXPECT_THAT(result.out, HasSubstr("virt_reclaim_build_info"));
  EXPECT_EQ(Read("x.prom"), "-");
  EXPECT_EQ(Run({"report", "-n", "--html", Path("x.html")}).status, ExitStatus::kDone);
  EXPECT_EQ(Read("x.html"), "-");
}

TEST_F(OverviewFilesTest, AHypervisorThatIsDownIsInTheFile) {
  Run({"metrics", "--textfile", Path("x.prom")});
  const ProgramResult result = Run({"-c", "down:///", "metrics", "--textfile", Path("x.prom")});
  EXPECT_EQ(result.status, ExitStatus::kError);
  EXPECT_THAT(Read("x.prom"), HasSubstr("\nvirt_reclaim_collect_success 0\n"));
}

TEST_F(OverviewFilesTest, AWrongNameLeavesTheFile) {
  Run({"metrics", "--textfile", Path("x.prom")});
  EXPECT_EQ(Run({"metrics", "--textfile", Path("x.prom"), "nobody"}).status, ExitStatus::kError);
  EXPECT_THAT(Read("x.prom"), HasSubstr("\nvirt_reclaim_collect_success 1\n"));
}

TEST_F(OverviewFilesTest, ThePageIsWrittenBesideTheReport) {
  const ProgramResult result = Run({"report", "--html", Path("x.html")});
  EXPECT_EQ(result.status, ExitStatus::kDone);
  EXPECT_THAT(result.out, HasSubstr("total: 0 disks"));
  EXPECT_THAT(Read("x.html"), HasSubstr("<!DOCTYPE html>"));
}

}  // namespace
}  // namespace virt_reclaim
