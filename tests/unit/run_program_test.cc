// The verb run as a program: after a mistake in the policy nothing is done.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "host/cli/program.h"

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

}  // namespace
}  // namespace virt_reclaim
