// Trims of several programs on one storage.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/io.h"
#include "host/commands/explain.h"
#include "host/services/storage_lock.h"
#include "tests/unit/trim_fixture.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class TrimTurnsTest : public TrimTest {
 protected:
  // Another program that trims on the storage with this st_dev.
  std::unique_ptr<StorageLock> OtherOn(const std::string& storage) {
    auto lock = std::make_unique<StorageLock>(world_.services().lock_directory,
                                              std::set<std::string>{storage}, 1);
    EXPECT_TRUE(lock->Take().value());
    return lock;
  }
  TrimOptions Telling(std::function<void()> meanwhile = nullptr) {
    TrimOptions options;
    options.waits = [this, meanwhile](const DomainSummary& domain) {
      waited_.push_back(domain.name);
      if (meanwhile) meanwhile();
    };
    return options;
  }

  std::vector<std::string> waited_;
};

TEST_F(TrimTurnsTest, WaitsUntilTheOtherIsDoneAndSaysSoOnce) {
  Add("web");
  Add("elsewhere", "/other", 2);
  auto other = OtherOn("1");
  size_t looked = 0;
  Services services = world_.services();
  services.sleep = [&, sleep = services.sleep](absl::Duration duration) {
    sleep(duration);
    if (!waited_.empty() && ++looked == 5) other.reset();
  };
  const TrimOptions options = Telling();
  const auto plan = PlanTrim(services, options, {});
  ASSERT_TRUE(plan.ok());
  const auto results = ExecuteTrim(services, options, *plan, nullptr, {});
  EXPECT_THAT(Lines(results), testing::UnorderedElementsAre("web: done", "elsewhere: done"));
  EXPECT_THAT(waited_, ElementsAre("web"));
  EXPECT_EQ(other, nullptr);
}

TEST_F(TrimTurnsTest, APlanWaitsForNobody) {
  Add("web");
  const auto other = OtherOn("1");
  EXPECT_TRUE(PlanTrim(world_.services(), Telling(), {}).ok());
  EXPECT_THAT(waited_, IsEmpty());
}

TEST_F(TrimTurnsTest, NoLongerThanTheTimeOfOneDomain) {
  Add("web");
  const auto other = OtherOn("1");
  TrimOptions options = Telling();
  options.timeout = absl::Minutes(7);
  const absl::Time begin = world_.Now();
  const auto results = Run(options);
  EXPECT_THAT(Lines(results), ElementsAre("web: skipped storage-busy"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kRefused);  // also of a domain that was not named
  EXPECT_GE(world_.Now() - begin, absl::Minutes(7));
  EXPECT_LT(world_.Now() - begin, absl::Minutes(8));
}

TEST_F(TrimTurnsTest, NoLongerThanTheTimeOfAll) {
  Add("web");
  const auto other = OtherOn("1");
  TrimOptions options = Telling();
  options.max_duration = absl::Minutes(5);
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: skipped time-over"));
  const absl::CivilSecond now = absl::LocalTimeZone().At(world_.Now()).cs;
  options = Telling();
  options.timeout = absl::Hours(24);
  options.window = DailyWindow{now.hour() * 60, (now.hour() + 1) % 24 * 60};
  EXPECT_THAT(Lines(Run(options)), ElementsAre("web: skipped outside-window"));
}

TEST_F(TrimTurnsTest, CtrlCEndsTheWait) {
  Add("web");
  const auto other = OtherOn("1");
  std::stop_source stop;
  const TrimOptions options = Telling([&] { stop.request_stop(); });
  const Services services = world_.services();
  const auto plan = PlanTrim(services, options, {});
  ASSERT_TRUE(plan.ok());
  const auto results = ExecuteTrim(services, options, *plan, nullptr, stop.get_token());
  EXPECT_THAT(Lines(results), ElementsAre("web: cancelled"));
  EXPECT_EQ(StatusOf(results), ExitStatus::kInterrupted);
  EXPECT_THAT(world_.trimmed_with, IsEmpty());
}

TEST_F(TrimTurnsTest, TheSameDomainIsBusyAtOnce) {
  Add("web");
  const auto storage = OtherOn("1");
  const auto domain = DomainLock::Take(world_.services().lock_directory, UuidOf("web"));
  ASSERT_TRUE(domain.ok());
  EXPECT_THAT(Lines(Run(Telling())), ElementsAre("web: skipped busy"));
  EXPECT_THAT(waited_, IsEmpty());
}

TEST_F(TrimTurnsTest, AStorageThatIsNotKnownIsOneOfItsHypervisor) {
  Add("web");
  world_.images_are_local = false;
  EXPECT_THAT(Lines(Run()), ElementsAre("web: done"));
  EXPECT_NE(access((world_.services().lock_directory + "/storage-0.lock").c_str(), F_OK), 0);
}

TEST_F(TrimTurnsTest, LocksThatCannotBeMadeAreAFailure) {
  Add("web");
  Services services = world_.services();
  services.lock_directory = "/proc/no-such-place";
  const auto plan = PlanTrim(services, {}, {});
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(Lines(ExecuteTrim(services, {}, *plan, nullptr, {})), ElementsAre("web: failed"));
}

// Appends a line; several processes may.
void Note(int fd, const std::string& line) {
  ASSERT_EQ(write(fd, line.data(), line.size()), static_cast<ssize_t>(line.size()));
}

// Three programs with ten domains each on two storages: two trim, one probes. What each does is
// told by its guests.
class ProgramsOnOneHostTest : public TrimTurnsTest {
 protected:
  static constexpr size_t kDomains = 10;

  // In a process of its own. What it ends with.
  int Trims(const Services& services) {
    const auto plan = PlanTrim(services, {}, {});
    if (!plan.ok()) return 1;
    const auto results = ExecuteTrim(services, {}, *plan, nullptr, {});
    const bool done = std::all_of(results.begin(), results.end(), [](const TrimmedDomain& result) {
      return result.outcome.kind == OutcomeKind::kDone;
    });
    return done ? 0 : 2;
  }
  int Probes(const Services& services) {
    ExplainOptions options;
    for (const auto& [uuid, domain] : world_.domains) options.domains.push_back(uuid);
    options.probe = true;
    const auto domains = Explain(services, options, {});
    if (!domains.ok()) return 1;
    const bool reach =
        std::all_of(domains->begin(), domains->end(), [](const ExplainedDomain& domain) {
          return domain.disks.at(0).probe && domain.disks[0].probe->reaches == true;
        });
    return reach ? 0 : 2;
  }
  int RunProgram(size_t program, int events) {
    for (size_t i = 0; i < kDomains; ++i) {
      const uint64_t storage = 1 + i % 2;
      const std::string name = absl::StrCat("vm-", program, "-", i);
      const std::string what = absl::StrCat(storage, " ", program, ".", i, "\n");
      FakeAgent& agent = Add(name, "/images", storage).agent;
      agent.image_of = {{"/", absl::StrCat("/images/", name, ".raw")}};
      agent.while_trimming = agent.while_discarding = [events, what] {
        Note(events, absl::StrCat("+ ", what));
        absl::SleepFor(absl::Milliseconds(3));
        Note(events, absl::StrCat("- ", what));
      };
    }
    // A host has one clock.
    Services services = world_.services();
    services.now = absl::Now;
    services.sleep = [](absl::Duration) { absl::SleepFor(absl::Milliseconds(1)); };
    services.state_directory += absl::StrCat(program);
    return program == 2 ? Probes(services) : Trims(services);
  }
};

TEST_F(ProgramsOnOneHostTest, TakeTurnsOnEachStorage) {
  constexpr size_t kPrograms = 3;
  const std::string events = world_.directory() + "/events";
  const int fd = open(events.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0);
  std::vector<pid_t> programs;
  for (size_t program = 0; program < kPrograms; ++program) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) _exit(RunProgram(program, fd));
    programs.push_back(pid);
  }
  for (const pid_t pid : programs) {
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
  }
  close(fd);
  std::map<std::string, std::string> now;      // by storage: whose turn it is
  std::map<char, std::set<std::string>> done;  // by program: its domains
  const std::string log = ReadFile(events, 1 << 20).value();
  for (const absl::string_view line : absl::StrSplit(log, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    ASSERT_EQ(words.size(), 3u);
    std::string& here = now[words[1]];
    if (words[0] == "+") {
      EXPECT_EQ(here, "") << line;
      here = words[2];
    } else {
      EXPECT_EQ(here, words[2]);
      here.clear();
      done[words[2][0]].insert(words[2]);
    }
  }
  EXPECT_THAT(done, ElementsAre(testing::Pair('0', testing::SizeIs(kDomains)),
                                testing::Pair('1', testing::SizeIs(kDomains)),
                                testing::Pair('2', testing::SizeIs(kDomains))));
}

}  // namespace
}  // namespace virt_reclaim
