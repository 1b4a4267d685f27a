#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "host/commands/agent_install.h"
#include "host/commands/agent_status.h"
#include "host/services/domain_lock.h"
#include "host/services/migration_store.h"
#include "host/services/state_path.h"
#include "tests/fakes/fake_guest_tree.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr char kVersion[] = "0.1.0";
constexpr char kProgramText[] = "#!/bin/sh\necho virt-reclaim-agent 0.1.0\n";
constexpr char kChannel[] = "org.virt_reclaim.agent.v1";

AgentFile File(const std::string& path, const std::string& mode, const std::string& content) {
  return {absl::StrCat("/host", path), path, mode, content, Digest(content)};
}

// A domain without a port, whose guest has systemd and a qemu-guest-agent that may do everything.
class AgentInstallTest : public testing::Test {
 protected:
  AgentInstallTest() : guest_(world_.directory() + "/guest") {
    const std::string xml =
        DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", "/images/a.raw", "unmap"}}, "");
    world_.AddDomain(absl::StrReplaceAll(
                         xml, {{"  </devices>",
                                "    <controller type='virtio-serial' index='0'/>\n  </devices>"}}),
                     DomainState::kRunning);
    domain().qemu_agent.handler = [this](const std::string& command) {
      return guest_.Answer(command);
    };
    domain().agent.facts.agent_version = kVersion;
    guest_.HasSystemd();
    guest_.HasPort();
    options_.domains = {"web"};
    options_.version = kVersion;
    options_.files = {File(kAgentProgram, "0755", kProgramText),
                      File("/etc/systemd/system/virt-reclaim-agent.service", "0644", "[Unit]\n"),
                      File("/etc/udev/rules.d/99-virt-reclaim-agent.rules", "0644", "rule\n")};
  }

  FakeDomain& domain() { return world_.domains.at(kUuid); }
  AgentInstall Plan(const std::stop_token& stop = {}) {
    return PlanAgentInstall(world_.services(), options_, stop).value().front();
  }
  AgentInstall Install(const std::stop_token& stop = {}) {
    return ExecuteAgentInstall(world_.services(), options_,
                               PlanAgentInstall(world_.services(), options_, {}).value(), stop)
        .front();
  }
  std::string SkippedFor(const AgentInstall& install) {
    if (install.outcome.kind != OutcomeKind::kSkipped || install.outcome.reasons.empty())
      return absl::StrCat("not skipped: ", install.outcome.error.ToString());
    return std::string(Code(install.outcome.reasons.back().reason));
  }
  ExitStatus StatusOf(const AgentInstall& install) {
    return ExitStatusOf(std::vector<Outcome>{install.outcome});
  }
  // Nothing of ours is in the guest, nor was anything left there.
  void ExpectUntouched() {
    EXPECT_FALSE(guest_.Has(kAgentProgram));
    EXPECT_EQ(guest_.Leftovers(), 0u);
    EXPECT_EQ(guest_.open_files(), 0u);
  }

  FakeWorld world_;
  FakeGuestTree guest_;
  AgentInstallOptions options_;
};

TEST_F(AgentInstallTest, PutsPortAndFilesAndStartsIt) {
  const AgentInstall done = Install();
  EXPECT_EQ(StatusOf(done), ExitStatus::kDone) << done.outcome.error;
  EXPECT_EQ(done.defined, PortState::kAdded);
  EXPECT_EQ(done.live, PortState::kAdded);
  EXPECT_EQ(done.version, kVersion);
  EXPECT_THAT(done.files, SizeIs(3));
  EXPECT_THAT(domain().inactive_xml, HasSubstr(kChannel));
  EXPECT_THAT(domain().live_xml, HasSubstr(kChannel));
  for (const AgentFile& file : options_.files) EXPECT_EQ(guest_.Read(file.path), file.content);
  EXPECT_EQ(guest_.Leftovers(), 0u);
  EXPECT_EQ(guest_.open_files(), 0u);
  const std::string log = guest_.Read("/log");
  EXPECT_THAT(log, HasSubstr("systemctl daemon-reload\nudevadm control --reload\nudevadm trigger "
                             "--settle --subsystem-match=virtio-ports\nsystemctl restart "
                             "virt-reclaim-agent.service\n"));
}

TEST_F(AgentInstallTest, ASecondRunHasNothingToDo) {
  Install();
  const size_t calls = world_.calls.size();
  const AgentInstall again = Plan();
  EXPECT_FALSE(HasWork(again));
  EXPECT_EQ(again.version, kVersion);
  EXPECT_EQ(StatusOf(Install()), ExitStatus::kDone);
  EXPECT_THAT(world_.calls, SizeIs(calls));
}

TEST_F(AgentInstallTest, APlanChangesNothing) {
  const AgentInstall plan = Plan();
  EXPECT_TRUE(HasWork(plan));
  EXPECT_EQ(plan.defined, PortState::kAdd);
  EXPECT_EQ(plan.live, PortState::kAdd);
  EXPECT_THAT(plan.files, SizeIs(3));
  EXPECT_TRUE(plan.starts);
  EXPECT_THAT(world_.calls, IsEmpty());
  ExpectUntouched();
}

TEST_F(AgentInstallTest, OnlyWhatDiffersIsCopied) {
  Install();
  options_.files[0] = File(kAgentProgram, "0755", "#!/bin/sh\necho virt-reclaim-agent 0.2.0\n");
  const AgentInstall plan = Plan();
  EXPECT_THAT(plan.files, ElementsAre(kAgentProgram));
  EXPECT_EQ(plan.version_before, kVersion);
  domain().agent.facts.agent_version = "0.2.0";
  EXPECT_EQ(Install().version, "0.2.0");
  EXPECT_EQ(guest_.Read(kAgentProgram), options_.files[0].content);
}

TEST_F(AgentInstallTest, WithoutAControllerThePortComesWithThePowerCycle) {
  domain().live_xml = domain().inactive_xml =
      absl::StrReplaceAll(domain().live_xml, {{"virtio-serial", "usb"}});
  std::filesystem::remove_all(world_.directory() + "/guest/dev/virtio-ports");
  const AgentInstall done = Install();
  EXPECT_EQ(StatusOf(done), ExitStatus::kDone) << done.outcome.error;
  EXPECT_EQ(done.defined, PortState::kAdded);
  EXPECT_EQ(done.live, PortState::kAtPowerCycle);
  ASSERT_THAT(done.outcome.reasons, SizeIs(1));
  EXPECT_EQ(done.outcome.reasons[0].reason, Reason::kPowerCyclePending);
  EXPECT_EQ(guest_.Read(kAgentProgram), kProgramText);
  EXPECT_FALSE(absl::StrContains(guest_.Read("/log"), "restart"));
}

TEST_F(AgentInstallTest, APortThatCannotBePluggedInIsNoFailure) {
  domain().attach = absl::InternalError("no free slot");
  std::filesystem::remove_all(world_.directory() + "/guest/dev/virtio-ports");
  const AgentInstall done = Install();
  EXPECT_EQ(StatusOf(done), ExitStatus::kDone) << done.outcome.error;
  EXPECT_EQ(done.live, PortState::kAtPowerCycle);
  EXPECT_THAT(done.outcome.reasons.back().detail, HasSubstr("no free slot"));
}

TEST_F(AgentInstallTest, AGuestThatIsOffGetsItsPortAndTheSteps) {
  domain().summary.state = DomainState::kShutOff;
  options_.connect = "qemu:///system";
  const AgentInstall done = Install();
  EXPECT_EQ(SkippedFor(done), "not-running");
  EXPECT_EQ(StatusOf(done), ExitStatus::kRefused);
  EXPECT_EQ(done.defined, PortState::kAdded);
  ASSERT_THAT(done.steps, SizeIs(1));
  EXPECT_THAT(
      done.steps[0].command,
      ElementsAre("virt-customize", "--connect", "qemu:///system", "--domain", "web", "--mkdir",
                  "/etc/systemd/system", "--mkdir", "/etc/udev/rules.d", "--upload",
                  "/host/usr/sbin/virt-reclaim-agent:/usr/sbin/virt-reclaim-agent", "--chmod",
                  "0755:/usr/sbin/virt-reclaim-agent", "--upload",
                  "/host/etc/systemd/system/virt-reclaim-agent.service:/etc/systemd/system/"
                  "virt-reclaim-agent.service",
                  "--chmod", "0644:/etc/systemd/system/virt-reclaim-agent.service", "--upload",
                  "/host/etc/udev/rules.d/99-virt-reclaim-agent.rules:/etc/udev/rules.d/"
                  "99-virt-reclaim-agent.rules",
                  "--chmod", "0644:/etc/udev/rules.d/99-virt-reclaim-agent.rules",
                  "--selinux-relabel"));
  ExpectUntouched();
}

TEST_F(AgentInstallTest, WithoutSystemdOnlyTheProgramAndAStep) {
  std::filesystem::remove_all(world_.directory() + "/guest/run/systemd");
  const AgentInstall done = Install();
  EXPECT_EQ(StatusOf(done), ExitStatus::kDone) << done.outcome.error;
  EXPECT_EQ(done.outcome.reasons.back().reason, Reason::kNoSystemd);
  EXPECT_THAT(done.files, ElementsAre(kAgentProgram));
  ASSERT_THAT(done.steps, SizeIs(1));
  EXPECT_THAT(done.steps[0].command, ElementsAre(kAgentProgram, "daemon"));
  EXPECT_EQ(guest_.Read(kAgentProgram), kProgramText);
  EXPECT_FALSE(guest_.Has("/etc/systemd/system/virt-reclaim-agent.service"));
  EXPECT_FALSE(HasWork(Plan()));
}

TEST_F(AgentInstallTest, WithoutQemuGuestAgentThereAreSteps) {
  domain().qemu_agent.handler = nullptr;
  domain().live_xml = absl::StrReplaceAll(domain().live_xml, {{"virtio-serial", "usb"}});
  const AgentInstall done = Install();
  EXPECT_EQ(SkippedFor(done), "no-qemu-agent");
  EXPECT_THAT(done.steps, SizeIs(1));
  EXPECT_EQ(done.defined, PortState::kAdded);
}

TEST_F(AgentInstallTest, WithoutQemuGuestAgentOursMayBeThereAlready) {
  Install();
  domain().qemu_agent.handler = nullptr;
  EXPECT_EQ(StatusOf(Install()), ExitStatus::kDone);
  EXPECT_FALSE(HasWork(Plan()));
  domain().agent.facts.agent_version = "0.0.9";
  EXPECT_EQ(SkippedFor(Plan()), "no-qemu-agent");
}

TEST_F(AgentInstallTest, BlockedCommandsAreNamed) {
  guest_.commands["guest-exec"] = false;
  guest_.commands.erase("guest-file-open");
  domain().agent.connect = absl::DeadlineExceededError("nobody");
  const AgentInstall done = Install();
  EXPECT_EQ(SkippedFor(done), "commands-blocked");
  EXPECT_EQ(done.outcome.reasons.back().detail, "guest-exec, guest-file-open");
  EXPECT_EQ(StatusOf(done), ExitStatus::kRefused);
  ExpectUntouched();
}

TEST_F(AgentInstallTest, WindowsIsLeftAlone) {
  guest_.system = "mswindows";
  EXPECT_EQ(SkippedFor(Install()), "guest-not-linux");
  ExpectUntouched();
}

TEST_F(AgentInstallTest, APackageOfTheGuestIsItsPackageManagers) {
  guest_.Script(kAgentProgram, "echo virt-reclaim-agent 0.0.9\n");
  guest_.Write("/packaged", "install ok installed");
  const std::string before = guest_.Read(kAgentProgram);
  const AgentInstall done = Install();
  EXPECT_EQ(SkippedFor(done), "agent-packaged");
  EXPECT_EQ(guest_.Read(kAgentProgram), before);
  guest_.Script(kAgentProgram, "echo virt-reclaim-agent 0.1.0\n");
  EXPECT_EQ(StatusOf(Install()), ExitStatus::kDone);
}

TEST_F(AgentInstallTest, AFullDiskLeavesNothing) {
  guest_.room = 10;
  const AgentInstall done = Install();
  EXPECT_EQ(done.outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(std::string(done.outcome.error.message()), HasSubstr("No space left on device"));
  EXPECT_EQ(StatusOf(done), ExitStatus::kError);
  EXPECT_THAT(done.files, IsEmpty());
  ExpectUntouched();
}

TEST_F(AgentInstallTest, WhatArrivesDamagedIsNotPutInPlace) {
  guest_.Script(kAgentProgram, "echo virt-reclaim-agent 0.0.9\n");
  const std::string before = guest_.Read(kAgentProgram);
  guest_.damages = true;
  const AgentInstall done = Install();
  EXPECT_TRUE(absl::IsDataLoss(done.outcome.error)) << done.outcome.error;
  EXPECT_EQ(guest_.Read(kAgentProgram), before);
  EXPECT_EQ(guest_.Leftovers(), 0u);
}

TEST_F(AgentInstallTest, AProgramThatDoesNotRunThereIsNotPutInPlace) {
  options_.files[0] = File(kAgentProgram, "0755", "#!/bin/sh\necho no such loader >&2\nexit 1\n");
  const AgentInstall done = Install();
  EXPECT_TRUE(absl::IsFailedPrecondition(done.outcome.error)) << done.outcome.error;
  EXPECT_THAT(std::string(done.outcome.error.message()), HasSubstr("no such loader"));
  ExpectUntouched();
}

TEST_F(AgentInstallTest, ShortWritesAreGoneOnWith) {
  guest_.most_at_once = 7;
  EXPECT_EQ(StatusOf(Install()), ExitStatus::kDone);
  EXPECT_EQ(guest_.Read(kAgentProgram), kProgramText);
}

TEST_F(AgentInstallTest, LiesEndInTimeAndAreFailures) {
  const std::pair<const char*, const char*> lies[] = {
      {"guest-exec-status", R"({"return":{"exited":false}})"},  // for ever
      {"guest-exec-status", R"({"return":{"exited":"yes"}})"},
      {"guest-exec-status", R"({"return":[]})"},
      {"guest-exec-status", R"({"return":{"exited":true,"exitcode":-3,"out-data":7}})"},
      {"guest-exec-status", R"({"return":{"exited":true,"exitcode":0,"out-data":"%%%"}})"},
      {"guest-exec", R"({"return":{"pid":"1"}})"},
      {"guest-exec", "{"},
      {"guest-file-open", R"({"return":"7"})"},
      {"guest-file-write", R"({"return":{"count":0}})"},
      {"guest-file-write", R"({"return":{"count":-1}})"},
      {"guest-file-write", R"({"return":{"count":99999999}})"},
      {"guest-file-write", R"({"return":null})"},
      {"guest-info", R"({"return":{"supported_commands":7}})"},
      {"guest-info", R"({"return":{"supported_commands":[7,{"name":8,"enabled":true}]}})"},
  };
  for (const auto& [command, answer] : lies) {
    SCOPED_TRACE(absl::StrCat(command, " ", answer));
    guest_.lies = {{command, answer}};
    domain().agent.connect = absl::DeadlineExceededError("nobody");
    const absl::Time begin = world_.Now();
    const AgentInstall done = Install();
    EXPECT_NE(done.outcome.kind, OutcomeKind::kDone);
    EXPECT_LT(world_.Now() - begin, absl::Minutes(15));
    guest_.lies.clear();
    ExpectUntouched();
  }
}

TEST_F(AgentInstallTest, ManyLittleWritesEndInTime) {
  guest_.most_at_once = 1;
  guest_.while_writing = [this] { world_.Sleep(absl::Seconds(30)); };
  const AgentInstall done = Install();
  EXPECT_TRUE(absl::IsDeadlineExceeded(done.outcome.error)) << done.outcome.error;
  ExpectUntouched();
}

TEST_F(AgentInstallTest, AStopInTheMiddleLeavesNothing) {
  std::stop_source stop;
  guest_.most_at_once = 5;
  guest_.while_writing = [&] { stop.request_stop(); };
  const AgentInstall done = Install(stop.get_token());
  EXPECT_EQ(done.outcome.kind, OutcomeKind::kCancelled);
  ExpectUntouched();
  guest_.while_writing = nullptr;
  EXPECT_EQ(StatusOf(Install()), ExitStatus::kDone);
}

TEST_F(AgentInstallTest, ASecondProgramIsBusy) {
  const auto lock = DomainLock::Take(world_.services().lock_directory, kUuid);
  ASSERT_TRUE(lock.ok());
  const AgentInstall done = Install();
  EXPECT_EQ(SkippedFor(done), "busy");
  EXPECT_EQ(StatusOf(done), ExitStatus::kRefused);
  EXPECT_THAT(world_.calls, IsEmpty());
  ExpectUntouched();
}

TEST_F(AgentInstallTest, AQemuGuestAgentThatIsAnothersIsBusy) {
  domain().qemu_agent.handler = [](const std::string&) {
    return absl::StatusOr<std::string>(absl::AbortedError("another command is under way"));
  };
  EXPECT_EQ(SkippedFor(Install()), "busy");
  EXPECT_THAT(world_.calls, IsEmpty());
}

TEST_F(AgentInstallTest, AnUnfinishedMigrationIsNotDisturbed) {
  const MigrationStore store(world_.services().state_directory, world_.services().hypervisor.Uri());
  MigrationRecord begun;
  begun.time = world_.Now();
  ASSERT_TRUE(store.Begin(kUuid, domain().inactive_xml, domain().inactive_xml, begun).ok());
  EXPECT_EQ(SkippedFor(Install()), "migration-unfinished");
  EXPECT_THAT(world_.calls, IsEmpty());
  ExpectUntouched();
}

TEST_F(AgentInstallTest, AFrozenGuestIsLeftAlone) {
  domain().activity = {{Reason::kFrozen, ""}};
  EXPECT_EQ(SkippedFor(Install()), "frozen");
  EXPECT_THAT(world_.calls, IsEmpty());
  ExpectUntouched();
}

TEST_F(AgentInstallTest, ADefinitionThatLibvirtStoresOtherwiseIsPutBack) {
  world_.stored_xml = absl::StrReplaceAll(domain().inactive_xml, {{"unmap", "ignore"}});
  const std::string before = domain().inactive_xml;
  const AgentInstall done = Install();
  EXPECT_TRUE(absl::IsDataLoss(done.outcome.error)) << done.outcome.error;
  EXPECT_EQ(domain().inactive_xml, before);
  ExpectUntouched();
}

TEST_F(AgentInstallTest, APortThatCannotBeDefinedDoesNotComeWithThePowerCycle) {
  domain().live_xml = domain().inactive_xml =
      absl::StrReplaceAll(domain().live_xml, {{"virtio-serial", "usb"}});
  world_.define = absl::InternalError("no");
  const AgentInstall done = Install();
  EXPECT_EQ(done.outcome.kind, OutcomeKind::kFailed);
  EXPECT_EQ(done.defined, PortState::kNone);
  EXPECT_EQ(done.live, PortState::kNone);
  EXPECT_THAT(done.outcome.reasons, IsEmpty());
  ExpectUntouched();
}

TEST_F(AgentInstallTest, ADefinitionThatChangedSinceThePlanIsLeftAlone) {
  auto plan = PlanAgentInstall(world_.services(), options_, {}).value();
  domain().inactive_xml = absl::StrReplaceAll(domain().inactive_xml, {{"unmap", "ignore"}});
  const std::string before = domain().inactive_xml;
  const AgentInstall done =
      ExecuteAgentInstall(world_.services(), options_, std::move(plan), {}).front();
  EXPECT_EQ(done.outcome.kind, OutcomeKind::kFailed);
  EXPECT_EQ(domain().inactive_xml, before);
  ExpectUntouched();
}

TEST_F(AgentInstallTest, InstalledAndSilentIsPartlyDone) {
  domain().agent.connect = absl::DeadlineExceededError("no answer");
  const AgentInstall done = Install();
  EXPECT_EQ(done.outcome.kind, OutcomeKind::kFailed);
  EXPECT_EQ(StatusOf(done), ExitStatus::kSomeFailed);
  EXPECT_THAT(std::string(done.outcome.error.message()), HasSubstr("it does not answer"));
  EXPECT_EQ(guest_.Read(kAgentProgram), kProgramText);
}

TEST_F(AgentInstallTest, FilesOfTheHostAreReadAndChecked) {
  const std::string directory = world_.directory() + "/files";
  for (const char* name : {"systemd", "udev"})
    std::filesystem::create_directories(directory + "/" + name);
  for (const char* name :
       {"systemd/virt-reclaim-agent.service", "systemd/virt-reclaim-agent-worker.socket",
        "systemd/virt-reclaim-agent-worker@.service", "udev/99-virt-reclaim-agent.rules"})
    std::ofstream(directory + "/" + name) << name;
  const std::string binary = directory + "/agent";
  EXPECT_TRUE(absl::IsNotFound(ReadAgentFiles(directory, binary).status()));
  std::ofstream(binary) << "#!/bin/sh\n";
  EXPECT_TRUE(absl::IsInvalidArgument(ReadAgentFiles(directory, binary).status()));
  std::ofstream(binary) << "\x7f"
                           "ELF...";
  const auto files = ReadAgentFiles(directory, binary);
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_THAT(*files, SizeIs(5));
  EXPECT_EQ(files->front().path, kAgentProgram);
  EXPECT_EQ(files->back().digest, Digest("udev/99-virt-reclaim-agent.rules"));
}

TEST(AgentStatus, WhichVersionIsOlder) {
  EXPECT_EQ(IsOlderVersion("0.1.0", "0.1.0"), false);
  EXPECT_EQ(IsOlderVersion("0.9.0", "0.10.0"), true);
  EXPECT_EQ(IsOlderVersion("0.10.0", "0.9.0"), false);
  EXPECT_EQ(IsOlderVersion("0.1", "0.1.1"), true);
  EXPECT_EQ(IsOlderVersion("0.1.0", "0.1"), false);
  for (const char* version : {"", "1.", "1.x", "-", "99999999999"})
    EXPECT_EQ(IsOlderVersion(version, "0.1.0"), std::nullopt) << version;
}

TEST_F(AgentInstallTest, StatusComparesTheVersions) {
  AgentStatusOptions options;
  options.version = "0.2.0";
  const auto status = [&] {
    return GetAgentStatus(world_.services(), options, {}).value().front();
  };
  domain().agent.facts.agent_uptime = absl::Hours(3);
  ASSERT_TRUE(Install().outcome.kind == OutcomeKind::kDone);
  EXPECT_EQ(status().older, true);
  EXPECT_EQ(status().agent->agent_uptime, absl::Hours(3));
  options.version = kVersion;
  EXPECT_EQ(status().older, false);
}

}  // namespace
}  // namespace virt_reclaim
