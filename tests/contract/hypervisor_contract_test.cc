// One suite for every Hypervisor: libvirt's own test driver and the fake twin must agree.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "host/services/hypervisor.h"
#include "host/services/libvirt_connect.h"
#include "host/services/libvirt_error.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {
namespace {

using testing::HasSubstr;

constexpr char kGuestPing[] = R"({"execute":"guest-ping"})";
constexpr char kNode[] =
    R"(<node><cpu><mhz>2000</mhz><model>x</model><active>2</active><nodes>1</nodes><sockets>1</sockets>
<cores>2</cores><threads>1</threads></cpu><memory>4194304</memory>
<pool type='dir'><name>images</name><target><path>/images</path></target>
<volume><name>b.raw</name><capacity>1048576</capacity></volume></pool>)";

std::string TestXml(const std::string& type) {
  return absl::StrCat("<domain type='", type, "'><name>web</name><uuid>", kUuid,
                      R"(</uuid><memory>65536</memory>
<os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'><source file='/images/a.raw'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>)");
}

class RealWorld {
 public:
  RealWorld() {
    const std::string path = absl::StrCat(testing::TempDir(), "/node-", getpid(), ".xml");
    std::ofstream(path) << kNode << TestXml("test") << "</node>";
    hypervisor_ = ConnectLibvirt({.uri = "test://" + path}, {}).value();
  }
  Hypervisor& hypervisor() { return *hypervisor_; }
  static std::string Type() { return "test"; }

 private:
  std::unique_ptr<Hypervisor> hypervisor_;
};

class FakeTwin {
 public:
  FakeTwin() {
    world_.AddDomain(TestXml("test"), DomainState::kRunning);
    world_.volumes["images/b.raw"] = "/images/b.raw";
  }
  Hypervisor& hypervisor() { return world_.services().hypervisor; }
  static std::string Type() { return "test"; }

 private:
  FakeWorld world_;
};

template <typename World>
class HypervisorContract : public testing::Test {
 protected:
  World world_;
};
using Worlds = testing::Types<RealWorld, FakeTwin>;
TYPED_TEST_SUITE(HypervisorContract, Worlds);

TYPED_TEST(HypervisorContract, ListsDomainsWithStateAndUuid) {
  const auto domains = this->world_.hypervisor().ListDomains().value();
  ASSERT_EQ(domains.size(), 1u);
  EXPECT_EQ(domains[0].name, "web");
  EXPECT_EQ(domains[0].uuid, kUuid);
  EXPECT_EQ(domains[0].state, DomainState::kRunning);
  EXPECT_TRUE(domains[0].persistent);
}

TYPED_TEST(HypervisorContract, XmlCanBeReadAndParsed) {
  for (const auto kind : {Hypervisor::Xml::kLive, Hypervisor::Xml::kInactive,
                          Hypervisor::Xml::kInactiveWithSecrets}) {
    const std::string text = this->world_.hypervisor().DomainXml(kUuid, kind).value();
    const xml::Domain domain = xml::ParseDomain(text).value();
    EXPECT_EQ(domain.name, "web");
    ASSERT_EQ(domain.disks.size(), 1u);
    EXPECT_EQ(domain.disks[0].source.path, "/images/a.raw");
  }
}

TYPED_TEST(HypervisorContract, WhereAVolumeLies) {
  Hypervisor& hypervisor = this->world_.hypervisor();
  EXPECT_EQ(hypervisor.VolumePath("images", "b.raw").value(), "/images/b.raw");
  EXPECT_TRUE(absl::IsNotFound(hypervisor.VolumePath("images", "none").status()));
  EXPECT_TRUE(absl::IsNotFound(hypervisor.VolumePath("none", "b.raw").status()));
}

TYPED_TEST(HypervisorContract, UnknownDomainIsNotFound) {
  const std::string nobody = "00000000-0000-0000-0000-000000000000";
  Hypervisor& hypervisor = this->world_.hypervisor();
  EXPECT_TRUE(absl::IsNotFound(hypervisor.DomainXml(nobody, Hypervisor::Xml::kLive).status()));
  EXPECT_TRUE(absl::IsNotFound(hypervisor.BlockUsage(nobody, "vda").status()));
  EXPECT_TRUE(absl::IsNotFound(hypervisor.OpenChannel(nobody, "x", "").status()));
  EXPECT_TRUE(absl::IsNotFound(
      hypervisor.QemuAgentCommand(nobody, kGuestPing, absl::Seconds(1), {}).status()));
}

TYPED_TEST(HypervisorContract, WhereNoJobCanBeNoneRuns) {
  Hypervisor& hypervisor = this->world_.hypervisor();
  const xml::Domain live =
      xml::ParseDomain(hypervisor.DomainXml(kUuid, Hypervisor::Xml::kLive).value()).value();
  const auto activity = hypervisor.Activity(kUuid, live);
  ASSERT_TRUE(activity.ok()) << activity.status();
  EXPECT_TRUE(activity->empty());
  const auto jobs = hypervisor.Jobs(kUuid, live);
  ASSERT_TRUE(jobs.ok()) << jobs.status();
  EXPECT_TRUE(jobs->empty());
  const std::string nobody = "00000000-0000-0000-0000-000000000000";
  EXPECT_TRUE(absl::IsNotFound(hypervisor.Activity(nobody, live).status()));
  EXPECT_TRUE(absl::IsNotFound(hypervisor.Jobs(nobody, live).status()));
}

TYPED_TEST(HypervisorContract, WithoutQemuGuestAgentItsCommandsAreUnimplemented) {
  EXPECT_TRUE(absl::IsUnimplemented(this->world_.hypervisor()
                                        .QemuAgentCommand(kUuid, kGuestPing, absl::Seconds(1), {})
                                        .status()));
}

TYPED_TEST(HypervisorContract, DefineReplacesTheInactiveXmlOnly) {
  Hypervisor& hypervisor = this->world_.hypervisor();
  std::string xml = TestXml(TypeParam::Type());
  xml.replace(xml.find("a.raw"), 5, "b.raw");
  ASSERT_TRUE(hypervisor.Define(xml).ok());
  EXPECT_THAT(hypervisor.DomainXml(kUuid, Hypervisor::Xml::kInactive).value(), HasSubstr("b.raw"));
  EXPECT_THAT(hypervisor.DomainXml(kUuid, Hypervisor::Xml::kLive).value(), HasSubstr("a.raw"));
}

// libvirt's test driver plugs in nothing, so that only what both refuse can be compared; a real
// QEMU: integration/agent_install_test.py.
TYPED_TEST(HypervisorContract, NothingIsPluggedIntoWhatIsNotThere) {
  Hypervisor& hypervisor = this->world_.hypervisor();
  const std::string nobody = "00000000-0000-0000-0000-000000000000";
  EXPECT_TRUE(absl::IsNotFound(hypervisor.AttachDevice(nobody, "<channel type='unix'/>")));
  EXPECT_FALSE(absl::StrContains(hypervisor.DomainXml(kUuid, Hypervisor::Xml::kInactive).value(),
                                 "<channel"));
}

TYPED_TEST(HypervisorContract, WhatIsNoQemuHasNoDeviceProperties) {
  const auto value = this->world_.hypervisor().DeviceProperty(kUuid, "virtio-disk0", "discard");
  EXPECT_TRUE(absl::IsUnimplemented(value.status())) << value.status();
}

TYPED_TEST(HypervisorContract, BrokenXmlIsAnErrorAndChangesNothing) {
  Hypervisor& hypervisor = this->world_.hypervisor();
  EXPECT_FALSE(hypervisor.Define("<domain").ok());
  EXPECT_EQ(hypervisor.ListDomains()->size(), 1u);
}

TEST(RealHypervisor, WhereLibvirtOpensNoChannelItIsTheSocketOfTheXml) {
  RealWorld world;
  const auto open = [&](const std::string& socket) {
    return world.hypervisor().OpenChannel(kUuid, "x", socket).status();
  };
  EXPECT_TRUE(absl::IsUnimplemented(open("")));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = absl::StrCat(testing::TempDir(), "/vr-contract-", getpid());
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  UniqueFd guest(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(guest.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(guest.get(), 1), 0);
  EXPECT_TRUE(open(path).ok()) << open(path);
  unlink(path.c_str());
  EXPECT_TRUE(absl::IsNotFound(open(path)));
}

TEST(LibvirtJobStatus, OnlyADriverWithoutJobsHasNone) {
  virDomainJobInfo job{};
  ASSERT_NE(virDomainGetJobInfo(nullptr, &job), 0);  // an error, though not 'not supported'
  EXPECT_FALSE(LibvirtJobStatus(nullptr).ok());
  EXPECT_EQ(virGetLastError(), nullptr);
}

TEST(ConnectLibvirt, ErrorsAreOneLineAndNameTheUri) {
  const absl::Status status = ConnectLibvirt({.uri = "nonsense:///x\n"}, {}).status();
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(status.message().find('\n'), absl::string_view::npos);
  EXPECT_THAT(std::string(status.message()), HasSubstr("nonsense:///x"));
}

// A libvirtd that is stopped: it has let us in, and says nothing.
class SilentLibvirtd {
 public:
  SilentLibvirtd() {
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    path_.copy(static_cast<char*>(address.sun_path), sizeof address.sun_path - 1);
    listening_ =
        bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
        listen(socket_.get(), 1) == 0;
  }
  ~SilentLibvirtd() { unlink(path_.c_str()); }
  SilentLibvirtd(const SilentLibvirtd&) = delete;
  SilentLibvirtd& operator=(const SilentLibvirtd&) = delete;

  bool listening() const { return listening_; }
  std::string uri() const { return absl::StrCat("qemu+unix:///system?socket=", path_); }

 private:
  const std::string path_ = absl::StrCat(testing::TempDir(), "/silent-", getpid());
  UniqueFd socket_{socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  bool listening_ = false;
};

TEST(ConnectLibvirt, ALibvirtdThatNeverAnswersIsLeft) {
  const SilentLibvirtd silent;
  ASSERT_TRUE(silent.listening());
  const absl::Status status =
      ConnectLibvirt({.uri = silent.uri(), .limit = absl::Milliseconds(50)}, {}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(silent.uri()));
}

TEST(ConnectLibvirt, AStopEndsTheWaitForIt) {
  const SilentLibvirtd silent;
  ASSERT_TRUE(silent.listening());
  std::stop_source stop;
  stop.request_stop();
  const absl::Status status =
      ConnectLibvirt({.uri = silent.uri(), .limit = absl::Hours(1)}, stop.get_token()).status();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST(ConnectLibvirt, SshAsksNothingUnlessItMay) {
  EXPECT_EQ(UriThatAsksNothing("qemu+ssh://host/system"), "qemu+ssh://host/system?no_tty=1");
  EXPECT_EQ(UriThatAsksNothing("qemu+ssh://host/system?keyfile=/k"),
            "qemu+ssh://host/system?keyfile=/k&no_tty=1");
  EXPECT_EQ(UriThatAsksNothing("qemu+ssh://host/system?no_tty=0"),
            "qemu+ssh://host/system?no_tty=0");
  EXPECT_EQ(UriThatAsksNothing("qemu:///system"), "qemu:///system");
  EXPECT_EQ(UriThatAsksNothing("qemu+tcp://ssh/system"), "qemu+tcp://ssh/system");
}

}  // namespace
}  // namespace virt_reclaim
