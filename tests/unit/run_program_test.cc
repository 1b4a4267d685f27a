// The verb run as a program: after a mistake in the policy nothing is done.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/io.h"
#include "host/cli/program.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

TEST(RunProgram, AWrongPolicyEndsItBeforeTheHypervisorIsReached) {
  ProgressLine progress(STDERR_FILENO);
  const auto never = [](const CommandLine&, const std::function<void(const Services&)>&) {
    ADD_FAILURE() << "the hypervisor was asked for";
    return absl::OkStatus();
  };
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(POLICY_DATA_DIRECTORY "/wrong")) {
    const std::string path = entry.path().string();
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{"run"}, std::vector<std::string>{"run", "--job=punch"},
          std::vector<std::string>{"run", "-n"}, std::vector<std::string>{"config", "check"},
          std::vector<std::string>{"config", "show", "web"}}) {
      std::vector<std::string> arguments = words;
      arguments.push_back(absl::StrCat("--config=", path));
      const ProgramResult result = RunProgram(arguments, never, progress, {});
      EXPECT_EQ(result.status, ExitStatus::kUsage) << path;
      EXPECT_EQ(result.out, "") << path;
      EXPECT_TRUE(absl::StartsWith(result.err, absl::StrCat("virt-reclaim: ", path, ":")))
          << result.err;
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    }
    ++files;
  }
  EXPECT_GE(files, 30u);
}

TEST(RunProgram, PunchDoesNotAskForTheHypervisor) {
  ProgressLine progress(STDERR_FILENO);
  std::vector<bool> without;
  const auto note = [&](const CommandLine& line, const std::function<void(const Services&)>&) {
    without.push_back(line.no_libvirt);
    return absl::UnavailableError("down");
  };
  const std::string config = "--config=" POLICY_EXAMPLE;
  RunProgram({"run", config, "--job=punch"}, note, progress, {});
  RunProgram({"run", config, "--job=trim"}, note, progress, {});
  RunProgram({"run", config}, note, progress, {});
  EXPECT_THAT(without, testing::ElementsAre(true, false, false));
}

// A job that stays would keep every later backup from beginning.
TEST(RunProgram, ABackupJobThatDoesNotEndIsSaidAndLeftToTheWatcher) {
  FakeWorld world;
  const std::string image = world.directory() + "/a.raw";
  world.AddImage(image, 1 << 20, 1 << 20);
  ASSERT_TRUE(WriteFileDurably(image, "", 0600).ok());
  FakeDomain& domain = world.AddDomain(
      DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", image, "unmap"}}, "connected"),
      DomainState::kRunning);
  int left = 0;
  const auto with_services = [&](const CommandLine&,
                                 const std::function<void(const Services&)>& use) {
    Services services = world.services();
    services.leave_to_watcher = [&left] { ++left; };
    use(services);
    return absl::OkStatus();
  };
  ProgressLine progress(-1);
  const std::vector<std::string> words = {"sync", "--domain", "web", world.directory()};
  RunProgram(words, with_services, progress, {});
  EXPECT_EQ(left, 0);
  domain.end_backup = absl::UnavailableError("connection is gone");
  ProgramResult result = RunProgram(words, with_services, progress, {});
  EXPECT_EQ(left, 1);
  EXPECT_THAT(result.err, testing::HasSubstr("may still have our backup job"));
  EXPECT_THAT(result.err, testing::HasSubstr("connection is gone"));
  // With nothing to copy, too.
  std::vector<std::string> clean = words;
  clean.insert(clean.begin() + 1, "--clean");
  domain.end_backup = absl::OkStatus();
  result = RunProgram(clean, with_services, progress, {});
  EXPECT_EQ(result.status, ExitStatus::kDone) << result.err;
  EXPECT_EQ(left, 1);
}

}  // namespace
}  // namespace virt_reclaim
