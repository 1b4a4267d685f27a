// A world of domains and backups, and a policy that is run on it, for tests of runs.
#ifndef VIRT_RECLAIM_TESTS_UNIT_RUN_FIXTURE_H_
#define VIRT_RECLAIM_TESTS_UNIT_RUN_FIXTURE_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "host/commands/run.h"
#include "host/policy/toml_reader.h"
#include "tests/unit/trim_fixture.h"

namespace virt_reclaim {

inline const std::set<policy::Job> kAll{policy::Job::kTrim, policy::Job::kSparsify,
                                        policy::Job::kPunch};

// "trim web: done 480 MiB", with the codes of what is to be said.
inline std::string Line(const RunItem& item) {
  std::string line = absl::StrCat(Name(item.job), " ", item.name, ": ", Name(item.outcome.kind));
  for (const Blocker& reason : item.outcome.reasons)
    absl::StrAppend(&line, " ", Code(reason.reason));
  if (item.freed) absl::StrAppend(&line, " ", FormatSignedByteSize(*item.freed));
  return line;
}

inline std::vector<std::string> Lines(const std::vector<RunItem>& items) {
  std::vector<std::string> lines;
  for (const RunItem& item : items) lines.push_back(Line(item));
  return lines;
}

class RunTest : public TrimTest {
 protected:
  RunTest() {
    sparsify::SparsifyResult found;
    found.disks.push_back({kGiB, 4096, 600 * kMiB, 200 * kMiB, 400 * kMiB, 400 * kMiB, 0, {}, 1});
    sparsify::FilesystemResult& filesystem = found.filesystems.emplace_back();
    filesystem.found.type = "ext4";
    filesystem.found.place = "partition 1";
    world_.sparsify = found;
  }

  FakeDomain& AddOff(const std::string& name) {
    FakeDomain& domain = Add(name);
    domain.summary.state = DomainState::kShutOff;
    return domain;
  }

  // A file of 8 MiB zeroes, all of them on the disk.
  std::string AddBackup(const std::string& name) {
    const std::string path = absl::StrCat(world_.directory(), "/", name);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    const int fd = open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    const std::string zeroes(8 * kMiB, '\0');
    EXPECT_EQ(write(fd, zeroes.data(), zeroes.size()), static_cast<ssize_t>(zeroes.size()));
    fsync(fd);
    close(fd);
    return path;
  }

  // A domain that is off, with such a file as its image.
  std::string AddOffWithFile(const std::string& name) {
    const std::string directory = absl::StrCat(world_.directory(), "/pool");
    Add(name, directory).summary.state = DomainState::kShutOff;
    return AddBackup(absl::StrCat("pool/", name, ".raw"));
  }

  // An empty plan where there is none.
  RunPlan PlanIt(const std::string& toml, const RunOptions& options,
                 const std::stop_token& stop = {}) {
    policy::Policy policy;
    const absl::Status added = policy::AddToml("a.toml", toml, policy);
    EXPECT_TRUE(added.ok()) << added;
    auto plan = PlanRun(world_.services(), policy, options, stop);
    EXPECT_TRUE(plan.ok()) << plan.status();
    return plan.ok() ? *std::move(plan) : RunPlan();
  }
  std::vector<RunItem> RunIt(const std::string& toml, const std::set<policy::Job>& jobs = kAll,
                             bool emergency = false, const std::stop_token& stop = {}) {
    return ExecuteRun(world_.services(), PlanIt(toml, {jobs, false, emergency}, stop), {}, stop);
  }
  std::vector<std::string> LinesOf(const std::string& toml,
                                   const std::set<policy::Job>& jobs = kAll) {
    return Lines(RunIt(toml, jobs));
  }

  static ExitStatus StatusOf(const std::vector<RunItem>& items) {
    std::vector<Outcome> outcomes;
    for (const RunItem& item : items) outcomes.push_back(item.outcome);
    return ExitStatusOf(outcomes);
  }
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_UNIT_RUN_FIXTURE_H_
