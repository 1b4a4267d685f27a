// A world of small domains with an agent, for tests of trims.
#ifndef VIRT_RECLAIM_TESTS_UNIT_TRIM_FIXTURE_H_
#define VIRT_RECLAIM_TESTS_UNIT_TRIM_FIXTURE_H_

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/byte_size.h"
#include "host/commands/trim.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {

inline constexpr char kFsInfo[] =
    R"({"return":[{"name":"vda","mountpoint":"/","type":"ext4","total-bytes":1073741824,
"used-bytes":104857600,"disk":[{"bus-type":"virtio","dev":"/dev/vda",
"pci-controller":{"domain":0,"bus":0,"slot":5,"function":0}}]}]})";
inline constexpr char kTrimmed[] =
    R"({"return":{"paths":[{"path":"/","trimmed":943718400,"minimum":0}]}})";

inline std::string UuidOf(const std::string& name) {
  std::string digits = absl::StrCat(std::hash<std::string>()(name) % 1000000);
  digits.insert(0, 12 - digits.size(), '0');
  return absl::StrCat("11111111-2222-3333-4444-", digits);
}

// "name: outcome code code".
inline std::string Line(const TrimmedDomain& result) {
  std::string line = absl::StrCat(result.domain.name, ": ", Name(result.outcome.kind));
  for (const Blocker& blocker : result.outcome.reasons)
    absl::StrAppend(&line, " ", Code(blocker.reason));
  return line;
}

inline std::vector<std::string> Lines(const std::vector<TrimmedDomain>& results) {
  std::vector<std::string> lines;
  for (const TrimmedDomain& result : results) lines.push_back(Line(result));
  return lines;
}

class TrimTest : public testing::Test {
 protected:
  // One disk, 1 GiB, 600 MiB allocated, of which the guest uses 100 MiB; a trim brings 480 MiB.
  FakeDomain& Add(const std::string& name, const std::string& directory = "/images",
                  uint64_t device = 1, const std::string& channel = "connected") {
    const std::string image = absl::StrCat(directory, "/", name, ".raw");
    world_.AddImage(image, kGiB, 600 * kMiB);
    world_.devices[image] = device;
    FakeDomain& domain = world_.AddDomain(
        DomainXml(name, UuidOf(name), "pc-q35-7.2", {{"vda", "virtio", image, "unmap"}}, channel),
        DomainState::kRunning);
    domain.agent.facts.filesystems = {FilesystemOn("vda", 5, "/", kGiB, 100 * kMiB)};
    GuestTrim trim;
    trim.mount_point = "/";
    trim.result = GuestTrimResult::kDone;
    trim.trimmed = 900 * kMiB;
    trim.obstacle = GuestObstacle::kNone;
    trim.disks = {"vda"};
    domain.agent.trims = {trim};
    domain.agent.freed = {{image, 480 * kMiB}};
    return domain;
  }

  // No agent of ours, but a connected qemu-guest-agent.
  FakeDomain& AddWithQemuAgent(const std::string& name) {
    FakeDomain& domain = Add(name, "/images", 1, "disconnected");
    domain.live_xml = absl::StrReplaceAll(
        domain.live_xml, {{"  </devices>",
                           "    <channel type='unix'>\n      <target type='virtio' "
                           "name='org.qemu.guest_agent.0' state='connected'/>\n    </channel>\n"
                           "  </devices>"}});
    domain.qemu_agent.answers = {{"guest-ping", R"({"return":{}})"},
                                 {"guest-get-fsinfo", kFsInfo},
                                 {"guest-fstrim", kTrimmed}};
    domain.qemu_agent.freed = {{absl::StrCat("/images/", name, ".raw"), 480 * kMiB}};
    return domain;
  }

  std::vector<TrimmedDomain> Run(const TrimOptions& options = {}) {
    const Services services = world_.services();
    const auto plan = PlanTrim(services, options, {});
    EXPECT_TRUE(plan.ok()) << plan.status();
    if (!plan.ok()) return {};
    return ExecuteTrim(services, options, *plan, nullptr, {});
  }

  // Each domain has its first trim behind it, and its images are as full as before.
  void RunFirst() {
    const auto images = world_.images;
    Run();
    world_.images = images;
    world_.trimmed_with.clear();
  }

  static ExitStatus StatusOf(const std::vector<TrimmedDomain>& results) {
    std::vector<Outcome> outcomes;
    for (const TrimmedDomain& result : results) outcomes.push_back(result.outcome);
    return ExitStatusOf(outcomes);
  }

  FakeWorld world_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_UNIT_TRIM_FIXTURE_H_
