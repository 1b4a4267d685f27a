// The whole program on a fake world, its stdout, stderr and exit status held against files in
// golden/cli/. After a wanted change: VIRT_RECLAIM_UPDATE_GOLDEN=1 program_test, then read the
// diff.
#include "host/cli/program.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/byte_size.h"
#include "base/io.h"
#include "tests/fakes/fake_guest_tree.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

void FillWorld(FakeWorld& world, bool with_qemu_agent) {
  world.AddImage("/images/web.raw", kGiB, 600 * kMiB);
  world.AddImage("/images/data.raw", 4 * kGiB, 3 * kGiB);
  FakeDomain& web = world.AddDomain(
      DomainXml("web", "11111111-2222-3333-4444-555555555555", "pc-i440fx-3.1",
                {{"vda", "virtio", "/images/web.raw", ""}, {"sda", "sata", "/images/data.raw", ""}},
                "connected"),
      DomainState::kRunning);
  web.agent.facts = {"0.1.0",        "6.1.0", "b00t",        "Debian GNU/Linux 12",
                     absl::Hours(5), {},      absl::Hours(4)};
  web.agent.facts.filesystems = {FilesystemOn("vda", 5, "/", kGiB, 100 * kMiB),
                                 FilesystemOn("sda", 6, "/srv/\x1b[31mred", 4 * kGiB, kGiB)};
  web.agent.facts.filesystems[0].obstacle = GuestObstacle::kDiskNotSupported;
  GuestTrim refused;
  refused.mount_point = "/";
  refused.result = GuestTrimResult::kFailed;
  refused.error_name = "EOPNOTSUPP";
  refused.obstacle = GuestObstacle::kDiskNotSupported;
  refused.disks = {"vda"};
  GuestTrim done;
  done.mount_point = "/srv/\x1b[31mred";
  done.result = GuestTrimResult::kDone;
  done.trimmed = 3 * kGiB;
  done.obstacle = GuestObstacle::kNone;
  done.disks = {"sda"};
  web.agent.trims = {refused, done};

  world.AddImage("/images/new.raw", kGiB, 500 * kMiB);
  FakeDomain& modern =
      world.AddDomain(DomainXml("new", "22222222-2222-3333-4444-555555555555", "pc-q35-7.2",
                                {{"vda", "virtio", "/images/new.raw", "unmap"}}, "connected"),
                      DomainState::kRunning);
  modern.agent.facts = web.agent.facts;
  modern.agent.facts.agent_version = "0.0.9";
  modern.agent.facts.agent_uptime.reset();  // which that version did not tell
  modern.agent.facts.filesystems = {FilesystemOn("vda", 5, "/", kGiB, 100 * kMiB)};
  GuestTrim good = done;
  good.mount_point = "/";
  good.trimmed = 900 * kMiB;
  good.disks = {"vda"};
  modern.agent.trims = {good};
  modern.agent.freed = {{"/images/new.raw", 390 * kMiB}};
  modern.agent.image_of = {{"/", "/images/new.raw"}};

  if (with_qemu_agent) {
    modern.live_xml =
        absl::StrReplaceAll(modern.live_xml, {{kAgentChannelName, "org.qemu.guest_agent.0"}});
    modern.qemu_agent.answers = {
        {"guest-ping", R"({"return":{}})"},
        {"guest-get-fsinfo", R"({"return":[{"name":"vda","mountpoint":"/","type":"ext4",
"total-bytes":1073741824,"used-bytes":104857600,"disk":[{"bus-type":"virtio","dev":"/dev/vda",
"pci-controller":{"domain":0,"bus":0,"slot":5,"function":0}}]}]})"},
        {"guest-fstrim", R"({"return":{"paths":[{"path":"/","trimmed":943718400},
{"path":"/\u001b[2J","error":"failed to open: Permission denied"}]}})"}};
    modern.qemu_agent.freed = modern.agent.freed;
  }

  world.AddDomain(DomainXml("off", "33333333-2222-3333-4444-555555555555", "pc-q35-7.2",
                            {{"vda", "virtio", "/images/gone.raw", "unmap"}}, ""),
                  DomainState::kShutOff);
}

// A stopped domain, and what is found in its image.
void AddStopped(FakeWorld& world) {
  world.AddImage("/images/stopped.raw", 4 * kGiB, 3 * kGiB);
  world.AddDomain(DomainXml("stopped", "44444444-2222-3333-4444-555555555555", "pc-q35-7.2",
                            {{"vda", "virtio", "/images/stopped.raw", "unmap"}}, ""),
                  DomainState::kShutOff);
  sparsify::SparsifyResult result;
  result.disks.push_back({4 * kGiB, 4096, 3 * kGiB, kGiB, 2 * kGiB, 2 * kGiB, 0, {}, 40});
  sparsify::FilesystemResult root;
  root.found.place = "partition 1";
  root.found.type = "ext4";
  root.found.facts = {"ro\x1bot", "0123", 4096, 3 * kGiB, false};
  root.found.free_bytes = 2 * kGiB + kMiB;
  root.reclaimable_bytes = root.given_back_bytes = 2 * kGiB;
  sparsify::FilesystemResult data;
  data.found.place = "partition 2";
  data.found.type = "xfs";
  data.found.refusal = freemap::Refusal::kDirtyJournal;
  data.found.reason = "the log must be replayed";
  result.filesystems = {root, data};
  world.sparsify = result;
}

// A domain with something on its way on every floor.
void AddDeepDomain(FakeWorld& world) {
  world.AddImage("/images/deep.raw", kGiB, 500 * kMiB);
  world.AddImage("/images/other.raw", kGiB, kGiB);
  const std::string uuid = "44444444-2222-3333-4444-555555555555";
  FakeDomain& deep = world.AddDomain(DomainXml("deep", uuid, "pc-q35-7.2",
                                               {{"vda", "virtio", "/images/deep.raw", "unmap"},
                                                {"vdb", "usb", "/images/other.raw", ""}},
                                               "connected"),
                                     DomainState::kRunning);
  deep.inactive_xml = DomainXml("deep", uuid, "pc-q35-7.2",
                                {{"vda", "virtio", "/images/deep.raw", "unmap"},
                                 {"vdb", "usb", "/images/other.raw", "unmap"}},
                                "");
  deep.snapshots.checkpoints = 2;
  GuestFilesystem root = FilesystemOn("vda", 5, "/", kGiB, 100 * kMiB);
  root.devices.front().kind = GuestDeviceKind::kDisk;
  root.devices.front().discard_max = 2 * kGiB;
  root.devices.front().discard_granularity = 512;
  root.discard_option = false;
  GuestDevice crypt;
  crypt.name = "dm-0";
  crypt.dm_name = "cryptroot";
  crypt.kind = GuestDeviceKind::kDmCrypt;
  crypt.discard_max = 0;
  crypt.parents = {"vda"};
  root.devices.insert(root.devices.begin(), crypt);
  root.obstacle = GuestObstacle::kDmCrypt;
  root.obstacle_device = "dm-0";
  deep.agent.facts.filesystems = {root};
  deep.agent.image_of = {{"/", "/images/deep.raw"}};
  deep.agent.marker_comes_back = false;
}

// A domain whose filesystems lie in files of others.
void AddDomainOfFiles(FakeWorld& world) {
  world.AddImage("/images/files.raw", kGiB, 500 * kMiB);
  FakeDomain& domain =
      world.AddDomain(DomainXml("files", "55555555-2222-3333-4444-555555555555", "pc-q35-7.2",
                                {{"vda", "virtio", "/images/files.raw", "unmap"}}, "connected"),
                      DomainState::kRunning);
  GuestFilesystem live = FilesystemOn("vda", 5, "/live", kGiB / 4, 10 * kMiB);
  live.discard_option = true;
  domain.agent.facts.filesystems = {FilesystemOn("vda", 5, "/srv", kGiB / 2, 100 * kMiB), live};
  domain.agent.image_of = {{"/srv", "/images/files.raw"}};
  const std::pair<const char*, const char*> files[] = {{"/mnt/in", "/srv"},
                                                       {"/mnt/in-live", "/live"}};
  for (const auto& [mount_point, holder] : files) {
    GuestFilesystem inner;
    inner.type = "ext4";
    inner.mount_points = {mount_point};
    inner.obstacle = GuestObstacle::kLoop;
    GuestDevice& loop = inner.devices.emplace_back();
    loop.name = absl::StrCat("loop", domain.agent.facts.filesystems.size() - 2);
    loop.kind = GuestDeviceKind::kLoop;
    loop.backing_file = absl::StrCat(holder, "/file");
    loop.discard_max = kGiB;
    domain.agent.facts.filesystems.push_back(inner);
    domain.agent.image_of[mount_point] = "/images/files.raw";
    domain.agent.holder_of[mount_point] = holder;
  }
}

// A domain whose guest has no agent, and one that can write to nothing.
void AddFaultyDomains(FakeWorld& world) {
  world.AddDomain(DomainXml("mute", "55555555-2222-3333-4444-555555555555", "pc-q35-7.2",
                            {{"vda", "virtio", "/images/new.raw", "unmap"}}, "disconnected"),
                  DomainState::kRunning);
  FakeDomain& fixed =
      world.AddDomain(DomainXml("fixed", "66666666-2222-3333-4444-555555555555", "pc-q35-7.2",
                                {{"vda", "virtio", "/images/new.raw", "unmap"}}, "connected"),
                      DomainState::kRunning);
  GuestFilesystem usr = FilesystemOn("vda", 5, "/usr", kGiB, 100 * kMiB);
  usr.obstacle = GuestObstacle::kReadOnly;
  fixed.agent.facts.filesystems = {usr};
}

// What run and config read; the origins of its values are in their outputs.
constexpr char kPolicy[] = R"([limits]
max-duration = "4h"
[defaults]
threshold = "10%"
[[rule]]
domains = ["w*"]
ways = ["qemu-agent"]
[[rule]]
domains = ["off"]
enabled = false
[[backups]]
directory = "/nonexistent/backups"
exclude = ["*.tmp"]
)";
constexpr char kWrongPolicy[] = "[defaults]\ntreshold = '5G'\n";

// What agent install puts into guests; 'new' has a qemu-guest-agent that may do everything.
void AddAgentFiles(FakeWorld& world, FakeGuestTree& tree) {
  const std::string directory = world.directory() + "/files";
  for (const char* name : {"systemd", "udev"})
    std::filesystem::create_directories(absl::StrCat(directory, "/", name));
  for (const char* name :
       {"systemd/virt-reclaim-agent.service", "systemd/virt-reclaim-agent-worker.socket",
        "systemd/virt-reclaim-agent-worker@.service", "udev/99-virt-reclaim-agent.rules"})
    ASSERT_TRUE(WriteFileDurably(absl::StrCat(directory, "/", name), name, 0644).ok());
  ASSERT_TRUE(WriteFileDurably(directory + "/virt-reclaim-agent",
                               "\x7f"
                               "ELF",
                               0755)
                  .ok());
  tree.HasSystemd();
  tree.HasPort();
  for (auto& [uuid, domain] : world.domains) {
    if (domain.summary.name == "new")
      domain.qemu_agent.handler = [&tree](const std::string& text) { return tree.Answer(text); };
  }
}

struct Case {
  std::string name;
  std::vector<std::string> arguments;
  std::vector<std::string> before = {};  // a call in the same world before
  std::optional<bool> answer = {};       // somebody sits at a terminal, and says yes or no
  bool with_qemu_agent = false;          // 'new' has qemu-guest-agent in place of the agent
};

class ProgramTest : public testing::TestWithParam<Case> {};

TEST_P(ProgramTest, PrintsWhatItPrinted) {
  FakeWorld world;
  if (!absl::StartsWith(GetParam().name, "nobody")) FillWorld(world, GetParam().with_qemu_agent);
  if (GetParam().name.find("deep") != std::string::npos) AddDeepDomain(world);
  if (GetParam().name.find("explain-files") != std::string::npos) AddDomainOfFiles(world);
  if (absl::StartsWith(GetParam().name, "sparsify")) AddStopped(world);
  if (absl::StartsWith(GetParam().name, "run")) AddStopped(world);
  if (GetParam().name == "trim-no-agent" || GetParam().name == "explain-read-only")
    AddFaultyDomains(world);
  FakeGuestTree tree(world.directory() + "/guest");
  setenv("VIRT_RECLAIM_AGENT_FILES", (world.directory() + "/files").c_str(), 1);
  if (absl::StartsWith(GetParam().name, "agent-install")) AddAgentFiles(world, tree);
  ASSERT_TRUE(WriteFileDurably(world.directory() + "/policy.toml", kPolicy, 0644).ok());
  ASSERT_TRUE(WriteFileDurably(world.directory() + "/wrong.toml", kWrongPolicy, 0644).ok());
  // Not the policy of the machine that this runs on.
  ASSERT_TRUE(WriteFileDurably(world.directory() + "/empty.toml", "", 0644).ok());
  const bool of_environment = absl::EndsWith(GetParam().name, "-environment");
  const std::string policy = of_environment ? "/policy.toml" : "/empty.toml";
  setenv("VIRT_RECLAIM_CONFIG", (world.directory() + policy).c_str(), 1);
  std::vector<std::string> arguments = GetParam().arguments, before = GetParam().before;
  for (std::vector<std::string>* words : {&arguments, &before}) {
    for (std::string& word : *words)
      word = absl::StrReplaceAll(word, {{"DIRECTORY", world.directory()}});
  }
  const std::filesystem::path here = std::filesystem::current_path();
  if (absl::EndsWith(GetParam().name, "-here")) std::filesystem::current_path(world.directory());
  ProgressLine progress(STDERR_FILENO);
  const auto with_services = [&](const CommandLine& line,
                                 const std::function<void(const Services&)>& use) {
    if (line.connect == "down:///")
      return absl::UnavailableError("connect to 'down:///': no such socket");
    if (line.connect == "busy:///")
      return absl::AbortedError("connect to 'busy:///': Failed to acquire pid file");
    use(world.services());
    return absl::OkStatus();
  };
  if (!before.empty()) RunProgram(before, with_services, progress, {});
  Confirm confirm;
  std::string asked;
  if (GetParam().answer) {
    confirm = [&](const std::string& question) {
      asked = absl::StrCat("--- asked\n", question, "\n");
      return *GetParam().answer;
    };
  }
  const ProgramResult result = RunProgram(arguments, with_services, progress, {}, confirm);
  std::filesystem::current_path(here);
  const std::string actual =
      absl::StrReplaceAll(absl::StrCat("$ virt-reclaim ", absl::StrJoin(GetParam().arguments, " "),
                                       "\n", asked, result.out, "--- stderr\n", result.err,
                                       "--- exit status ", static_cast<int>(result.status), "\n"),
                          {{world.directory(), "DIRECTORY"},
                           {"version=\"" VIRT_RECLAIM_VERSION "\"", "version=\"VERSION\""}});
  const std::string path = absl::StrCat(GOLDEN_DIRECTORY, "/", GetParam().name, ".txt");
  if (std::getenv("VIRT_RECLAIM_UPDATE_GOLDEN") != nullptr) {
    ASSERT_TRUE(WriteFileDurably(path, actual, 0644).ok());
  }
  const auto expected = ReadFile(path, 1 << 20);
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_EQ(actual, *expected);
}

const std::vector<Case> kCases{
    {"help", {"--help"}},
    {"help-report", {"report", "--help"}},
    {"help-trim", {"trim", "-h"}},
    {"help-migrate", {"migrate", "--help"}},
    {"help-agent", {"agent", "status", "--help"}},
    {"version", {"--version"}},
    {"no-verb", {}},
    {"unknown-verb", {"repotr"}},
    {"unknown-subverb", {"migrate", "aply"}},
    {"unknown-option", {"trim", "--minimun", "5"}},
    {"unknown-option-json", {"trim", "--json", "--bogus"}},
    {"option-before-verb", {"--config", "x", "run"}},
    {"two-verbs", {"report", "trim"}},
    {"two-verbs-of-a-group", {"migrate", "plan", "migrate", "apply", "web"}},
    {"json-wrong-verb", {"--json", "sparsfy"}},
    {"flag-with-value", {"report", "--json=x"}},
    {"option-twice", {"trim", "--chunk", "1M", "--chunk", "2M", "web"}},
    {"bad-size", {"trim", "--chunk", "5X"}},
    {"bad-pause", {"trim", "--pause", "2h"}},
    {"missing-value", {"report", "--connect"}},
    {"apply-nothing-named", {"migrate", "apply"}},
    {"apply-all-and-name", {"migrate", "apply", "--all", "web"}},
    {"unknown-domain", {"report", "wbe"}},
    {"hostile-domain", {"trim", "we\x1b[2Jb"}},
    {"connection-down", {"-c", "down:///", "report"}},
    {"connection-busy", {"-c", "busy:///", "report", "--json"}},
    {"report", {"report"}},
    {"report-json", {"report", "--json", "web"}},
    {"report-check", {"report", "--check=10%,90%"}},
    {"report-check-json", {"df", "--json", "--check", "1G,2G", "off"}},
    {"report-check-one-threshold", {"report", "--check=10%"}},
    {"report-check-wrong-order", {"report", "--check=40%,20%"}},
    {"report-nothing-known", {"report", "off"}},
    {"report-check-connection-down", {"-c", "down:///", "report", "--check=10%,20%"}},
    {"report-after-trim", {"report"}, {"trim", "new"}},
    {"help-explain", {"explain", "--help"}},
    {"explain", {"explain", "web"}},
    {"explain-one-disk", {"explain", "web:sda"}},
    {"explain-no-such-disk", {"explain", "new:vdb"}},
    {"explain-no-such-domain", {"explain", "ne:vda"}},
    {"explain-nothing-named", {"explain"}},
    {"explain-codes", {"explain", "--codes"}},
    {"explain-codes-json", {"explain", "--codes", "--json"}},
    {"explain-codes-of-a-domain", {"explain", "--codes", "web"}},
    {"explain-off", {"explain", "off"}},
    {"explain-read-only", {"explain", "fixed"}},
    {"explain-deep", {"explain", "--probe", "deep"}},
    {"explain-deep-json", {"explain", "--probe", "--json", "deep"}},
    {"explain-files", {"explain", "--probe", "files"}},
    {"explain-files-json", {"explain", "--probe", "--json", "files"}},
    {"explain-probe", {"explain", "--probe", "new"}},
    {"explain-probe-json", {"explain", "--probe", "--json", "new"}},
    {"explain-probe-dry-run", {"explain", "--probe", "-n", "new"}},
    {"explain-probe-off", {"explain", "--probe", "off"}},
    {"trim", {"trim"}},
    {"trim-nothing-freed", {"-c", "fake:///world", "trim", "web"}},
    {"trim-off", {"trim", "off"}},
    {"trim-no-agent", {"trim", "mute"}},
    {"trim-json", {"trim", "--json"}},
    {"trim-dry-run", {"trim", "--dry-run"}},
    {"trim-dry-run-after-trim", {"trim", "--dry-run", "new"}, {"trim", "new"}},
    {"trim-min-freed", {"trim", "--min-freed=1G", "new"}},
    {"trim-dry-run-qemu-agent", {"trim", "-n", "n*"}, {}, {}, true},
    {"trim-qemu-agent", {"trim", "new"}, {}, {}, true},
    {"trim-qemu-agent-json", {"trim", "--json", "--way=qemu-agent"}, {}, {}, true},
    {"trim-qemu-agent-mount-point", {"trim", "--mount-point=/", "new"}, {}, {}, true},
    {"trim-threshold", {"trim", "--threshold=90%"}},
    {"trim-storage", {"trim", "--storage=/nowhere"}},
    {"trim-storage-of-nobody", {"trim", "--storage=DIRECTORY", "off"}},
    {"trim-storage-of-nobody-dry-run", {"trim", "-n", "--storage=DIRECTORY", "off"}},
    {"trim-empty-storage", {"trim", "--storage", ""}},
    {"trim-no-time", {"trim", "--max-duration=0"}},
    {"trim-relative-mount-point", {"trim", "--mount-point=home", "new"}},
    {"trim-gentle-and-chunk", {"trim", "--gentle", "--chunk=1G"}},
    {"trim-bad-way", {"trim", "--way=virsh"}},
    {"trim-bad-threshold", {"trim", "--threshold=101%"}},
    {"trim-bad-per-storage", {"trim", "--per-storage=0"}},
    {"trim-bad-window", {"trim", "--window=3am-4am"}},
    {"trim-dry-run-json", {"trim", "-n", "--json"}},
    {"plan", {"migrate", "plan"}},
    {"plan-diff", {"migrate", "plan", "--diff", "web"}},
    {"plan-json", {"migrate", "plan", "--json", "web"}},
    {"plan-one-disk", {"migrate", "plan", "--disk", "sda", "--keep-machine", "web"}},
    {"apply", {"migrate", "apply", "--all"}},
    {"apply-json", {"migrate", "apply", "--json", "web"}},
    {"apply-dry-run", {"migrate", "apply", "-n", "web"}},
    {"apply-power-cycle", {"migrate", "apply", "--power-cycle=shutdown", "--all"}},
    {"apply-when-off", {"migrate", "apply", "--power-cycle=when-off", "web"}},
    {"apply-asked-yes", {"migrate", "apply", "web"}, {}, true},
    {"apply-asked-no", {"migrate", "apply", "--power-cycle=shutdown", "--all"}, {}, false},
    {"apply-yes-is-not-asked", {"migrate", "apply", "--yes", "web"}, {}, false},
    {"apply-json-is-not-asked", {"migrate", "apply", "--json", "off"}, {}, false},
    {"apply-nothing-to-do-is-not-asked", {"migrate", "apply", "new"}, {}, false},
    {"apply-plan-and-policy", {"migrate", "apply", "--plan", "p.json", "--bus=auto"}},
    {"apply-nothing-to-change",
     {"migrate", "apply", "--plan", "DIRECTORY/p.json"},
     {"migrate", "plan", "--save", "DIRECTORY/p.json", "new"}},
    {"apply-plan-missing", {"migrate", "apply", "--plan", "/nonexistent/p.json"}},
    {"apply-bad-window", {"migrate", "apply", "--window", "1-5", "--all"}},
    {"apply-bad-bus", {"migrate", "apply", "--bus=scsi", "web"}},
    {"apply-bad-machine", {"migrate", "apply", "--machine=new", "web"}},
    {"plan-save-nowhere", {"migrate", "plan", "--save", "/nonexistent/p.json", "web"}},
    {"plan-bus-change", {"migrate", "plan", "--bus=virtio-scsi", "web"}},
    {"plan-detect-zeroes", {"migrate", "plan", "--detect-zeroes=unmap", "new"}},
    {"apply-bad-batch", {"migrate", "apply", "--batch", "0%", "--all"}},
    {"apply-bad-power-cycle", {"migrate", "apply", "--power-cycle", "now", "--all"}},
    {"migrate-status", {"migrate", "status"}, {"migrate", "apply", "--all"}},
    {"migrate-status-json", {"migrate", "status", "--json"}, {"migrate", "apply", "--all"}},
    {"migrate-status-nothing", {"migrate", "status", "web"}},
    {"verify-pending", {"migrate", "verify", "web"}, {"migrate", "apply", "web"}},
    {"verify", {"migrate", "verify"}, {"migrate", "apply", "--power-cycle=shutdown", "web"}},
    {"rollback", {"migrate", "rollback", "web"}, {"migrate", "apply", "web"}},
    {"rollback-nothing", {"migrate", "rollback", "--all"}},
    {"rollback-dry-run", {"migrate", "rollback", "-n", "web"}, {"migrate", "apply", "web"}},
    {"agent-status", {"agent", "status"}},
    {"agent-install-dry-run", {"agent", "install", "-n", "new", "off"}},
    {"agent-install-json", {"agent", "install", "-n", "--json", "new"}},
    {"agent-install-off", {"agent", "install", "off"}},
    {"agent-install-off-json", {"-c", "qemu:///system", "agent", "install", "--json", "off"}},
    {"agent-install-nobody", {"agent", "install"}},
    {"agent-install-bad-binary", {"agent", "install", "--agent-binary=/dev/null", "new"}},
    {"agent-no-binary", {"agent", "install", "new"}},
    {"help-punch", {"punch", "--help"}},
    {"punch-nothing-named", {"punch"}},
    {"punch-null-alone", {"punch", "-0", "a.raw"}},
    {"punch-missing-file", {"punch", "/nonexistent/a.raw"}},
    {"punch-missing-file-json", {"punch", "--json", "-n", "/nonexistent/a.raw"}},
    {"punch-missing-list", {"punch", "--files-from", "/nonexistent/list"}},
    {"help-sync", {"sync", "--help"}},
    {"sync-nowhere-to", {"sync", "a.raw"}},
    {"sync-remote", {"sync", "a.raw", "backup:/srv/a.raw"}},
    {"sync-missing-file", {"sync", "/nonexistent/a.raw", "/nonexistent/copy.raw"}},
    {"sync-missing-file-json", {"sync", "--json", "-n", "/nonexistent/a.raw", "/nonexistent/b"}},
    {"help-sparsify", {"sparsify", "--help"}},
    {"help-completion", {"completion", "--help"}},
    {"completion-bash", {"completion", "bash"}},
    {"completion-zsh", {"completion", "zsh"}},
    {"completion-fish", {"completion", "fish"}},
    {"completion-no-shell", {"completion"}},
    {"completion-unknown-shell", {"completion", "csh"}},
    {"sparsify-nothing-named", {"sparsify"}},
    {"sparsify-all-off-and-name", {"sparsify", "--all-off", "web"}},
    {"sparsify-no-libvirt-and-name", {"sparsify", "--no-libvirt", "web"}},
    {"sparsify-output-of-two", {"sparsify", "--output", "copy.raw", "./web.raw", "./db.raw"}},
    {"sparsify-output-of-a-domain", {"sparsify", "--output", "copy.raw", "web"}},
    {"sparsify-output-and-threshold",
     {"sparsify", "--output", "copy.raw", "--threshold", "1G", "./web.raw"}},
    {"sparsify-storage-of-a-file", {"sparsify", "--storage", "/images", "./web.raw"}},
    {"sparsify-unknown-domain", {"sparsify", "wbe"}},
    {"sparsify-file-here", {"sparsify", "policy.toml"}},
    {"sparsify-storage-of-nobody", {"sparsify", "--all-off", "--storage=DIRECTORY"}},
    {"sparsify-running", {"sparsify", "web"}},
    {"sparsify", {"sparsify", "stopped"}},
    {"sparsify-json", {"sparsify", "--json", "stopped"}},
    {"sparsify-dry-run", {"sparsify", "-n", "stopped"}},
    {"sparsify-all-off", {"sparsify", "--all-off"}},
    {"help-run", {"run", "--help"}},
    {"help-config", {"config", "show", "--help"}},
    {"run", {"run", "--config=DIRECTORY/policy.toml"}},
    {"run-json", {"run", "--json", "--config=DIRECTORY/policy.toml"}},
    {"run-dry-run", {"run", "-n", "--config=DIRECTORY/policy.toml"}},
    {"run-dry-run-json", {"run", "-n", "--json", "--config=DIRECTORY/policy.toml"}},
    {"run-job", {"run", "--job=sparsify", "--config=DIRECTORY/policy.toml"}},
    {"run-bad-job", {"run", "--job=sync"}},
    {"run-domain", {"run", "web"}},
    {"run-wrong-policy", {"run", "--config=DIRECTORY/wrong.toml"}},
    {"run-wrong-policy-json", {"run", "--json", "--config=DIRECTORY/wrong.toml"}},
    {"run-resume-what", {"run", "--resume"}},
    {"run-no-policy", {"run", "--config=DIRECTORY/none.toml"}},
    {"run-connection-down", {"-c", "down:///", "run", "--config=DIRECTORY/policy.toml"}},
    {"config-check", {"config", "check", "--config=DIRECTORY/policy.toml"}},
    {"config-check-environment", {"config", "check"}},
    {"config-check-json", {"config", "check", "--json", "--config=DIRECTORY/policy.toml"}},
    {"config-check-wrong", {"config", "check", "--config=DIRECTORY/wrong.toml"}},
    {"config-show", {"config", "show", "--config=DIRECTORY/policy.toml"}},
    {"config-show-domain", {"config", "show", "web", "--config=DIRECTORY/policy.toml"}},
    {"config-show-json", {"config", "show", "off", "--json", "--config=DIRECTORY/policy.toml"}},
    {"config-what", {"config"}},
    {"help-metrics", {"metrics", "--help"}},
    {"metrics", {"metrics"}},
    {"metrics-after-trim", {"metrics"}, {"trim", "new"}},
    {"metrics-unknown-domain", {"metrics", "wbe"}},
    {"metrics-connection-down", {"-c", "down:///", "metrics"}},
    {"metrics-no-directory", {"metrics", "--textfile", "/nonexistent/x.prom"}},
    {"nobody-report", {"report"}},
    {"nobody-trim-dry-run", {"trim", "-n"}},
    {"nobody-plan", {"migrate", "plan"}},
    {"nobody-apply", {"migrate", "apply", "--all"}},
    {"nobody-agent-status", {"agent", "status"}},
    {"nobody-sparsify", {"sparsify", "--all-off"}},
    {"report-html-no-directory", {"report", "--html=/nonexistent/x.html"}},
    {"agent-status-json", {"agent", "status", "--json", "new"}},
};

INSTANTIATE_TEST_SUITE_P(Cli, ProgramTest, testing::ValuesIn(kCases), [](const auto& case_info) {
  return absl::StrReplaceAll(case_info.param.name, {{"-", "_"}});
});

}  // namespace
}  // namespace virt_reclaim
