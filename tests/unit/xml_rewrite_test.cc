#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::string DiskXml(absl::string_view target, absl::string_view bus,
                    absl::string_view inside = "") {
  return absl::StrCat("<disk type='file'><driver name='qemu'/><source file='/x'/><target dev='",
                      target, "' bus='", bus, "'/>", inside, "</disk>");
}

std::string DomainXml(absl::string_view machine, absl::string_view devices) {
  return absl::StrCat("<domain type='kvm'><name>d</name><os><type machine='", machine,
                      "'>hvm</type></os><devices>", devices, "</devices></domain>");
}

TEST(RewriteTest, OnlyTheChosenDisk) {
  const std::string text =
      DomainXml("pc-q35-3.1", DiskXml("vda", "virtio") + DiskXml("sda", "sata"));
  const auto result = Rewrite(text, {.targets = {"sda"}});
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_THAT(result->changes, SizeIs(1));  // no machine type: sata does not need it
  EXPECT_EQ(result->changes[0].target, "sda");
}

TEST(RewriteTest, UnknownTargetIsAnError) {
  const auto result = Rewrite(DomainXml("q35", DiskXml("vda", "virtio")), {.targets = {"vdb"}});
  EXPECT_TRUE(absl::IsNotFound(result.status())) << result.status();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("no disk 'vdb'"));
}

TEST(RewriteTest, KeepsTheMachineTypeWhenToldAndRefusesTheDiskThatNeedsIt) {
  const std::string text =
      DomainXml("pc-q35-3.1", DiskXml("vda", "virtio") + DiskXml("sda", "sata"));
  const auto result = Rewrite(text, {.machine = MachinePolicy::kKeep, .targets = {}});
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_THAT(result->refusals, SizeIs(1));
  EXPECT_EQ(result->refusals[0].target, "vda");
  EXPECT_EQ(result->refusals[0].reason, "machine-too-old");
  ASSERT_THAT(result->changes, SizeIs(1));
  EXPECT_EQ(result->changes[0].target, "sda");
}

TEST(RewriteTest, RefusedDisksDoNotRaiseTheMachineType) {
  const auto result = Rewrite(DomainXml("pc-q35-3.1", DiskXml("vda", "virtio", "<readonly/>")), {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->changes, IsEmpty());
  EXPECT_THAT(result->refusals, SizeIs(1));
}

TEST(RewriteTest, TwoDriversOfADiskThatIsLeftAloneDoNoHarm) {
  const auto result = Rewrite(
      DomainXml("q35", DiskXml("sda", "usb", "<driver name='qemu'/>") + DiskXml("vda", "virtio")),
      {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->changes, SizeIs(1));
}

TEST(RewriteTest, AmbiguousXmlIsNotEdited) {
  EXPECT_TRUE(absl::IsUnimplemented(
      Rewrite(DomainXml("q35", DiskXml("vda", "virtio", "<target dev='sda' bus='usb'/>")), {})
          .status()));
  const std::string two_types =
      "<domain type='kvm'><os><type machine='pc-q35-3.1'/><type machine='q35'/></os><devices>" +
      DiskXml("vda", "virtio") + "</devices></domain>";
  EXPECT_TRUE(absl::IsUnimplemented(Rewrite(two_types, {}).status()));
}

TEST(RewriteTest, TypeOfTheDomainMustBeQemus) {
  for (const char* type : {"xen", "lxc", "bhyve", "test", ""}) {
    const auto result = Rewrite(absl::StrCat("<domain type='", type, "'/>"), {});
    EXPECT_TRUE(absl::IsFailedPrecondition(result.status())) << result.status();
  }
}

TEST(RewriteTest, PrefixedDriverInADiskIsNotOurs) {
  const auto result = Rewrite(
      "<domain type='kvm' xmlns:x='urn:x'><devices><disk type='file'><x:driver discard='ignore'/>"
      "<source file='/x'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
      {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(
      result->text,
      HasSubstr(
          "<disk type='file'><driver name='qemu' discard='unmap'/><x:driver discard='ignore'/>"));
}

TEST(RewriteTest, EditsAsManyDisksAsThereAre) {
  std::string disks;
  for (int i = 0; i < 5000; ++i) absl::StrAppend(&disks, DiskXml(absl::StrCat("vd", i), "virtio"));
  const auto result = Rewrite(DomainXml("pc-q35-3.1", disks), {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->changes, SizeIs(5001));
}

TEST(RewriteTest, AnEditThatWouldBreakTheSizeLimitIsNotMade) {
  std::string text = DomainXml("q35", DiskXml("vda", "virtio"));
  text += std::string(kMaxXmlBytes - text.size(), '\n');
  EXPECT_TRUE(absl::IsInternal(Rewrite(text, {}).status()));
}

RewriteOptions ToScsi() {
  RewriteOptions options;
  options.bus = BusPolicy::kVirtioScsi;
  return options;
}

TEST(RewriteBusTest, MoreDisksThanSevenShareOneController) {
  std::string disks;
  for (char c = 'a'; c <= 'z'; ++c)
    disks += DiskXml(absl::StrCat("vd", std::string(1, c)), "virtio");
  disks += DiskXml("vdaa", "virtio");
  const auto result = Rewrite(DomainXml("q35", disks), ToScsi());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->text, HasSubstr("<target dev='sdaa' bus='scsi'/><address type='drive' "
                                      "controller='0' bus='0' target='0' unit='26'/>"));
  EXPECT_THAT(result->text, testing::Not(HasSubstr("index='1'")));
}

TEST(RewriteBusTest, AutomaticAliasNamedForQemuStopsTheMove) {
  const auto result = Rewrite(
      "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><os><type "
      "machine='q35'>hvm</type></os><devices>" +
          DiskXml("vda", "virtio") +
          "</devices><qemu:commandline><qemu:arg value='virtio-disk0.serial=x'/></qemu:commandline>"
          "</domain>",
      ToScsi());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->changes, IsEmpty());
  ASSERT_THAT(result->refusals, SizeIs(1));
  EXPECT_EQ(result->refusals[0].reason, "qemu-commandline-conflict");
}

TEST(RewriteBusTest, ImpliedControllersKeepTheirIndex) {
  // sdh lies on controller 1, which libvirt would add by itself.
  const auto result = Rewrite(
      DomainXml("pc", DiskXml("sdh", "scsi") + DiskXml("vda", "virtio", "<boot order='1'/>")),
      ToScsi());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->text, HasSubstr("<controller type='scsi' index='0' model='virtio-scsi'/>"));
}

TEST(RewriteBusTest, AWindowsGuestKeepsItsFirstDiskByPlaceAndByName) {
  const std::string text =
      "<domain type='kvm'><os><type machine='q35'>hvm</type></os><features><hyperv/></features>"
      "<devices>" +
      DiskXml("vdc", "virtio") + DiskXml("vda", "virtio") + DiskXml("vdb", "virtio") +
      "</devices></domain>";
  const auto result = Rewrite(text, ToScsi());
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_THAT(result->refusals, SizeIs(2));
  EXPECT_EQ(result->refusals[0].target, "vdc");
  EXPECT_EQ(result->refusals[1].target, "vda");
  EXPECT_EQ(result->refusals[1].reason, "windows-boot-disk");
}

TEST(RewriteBusTest, AnotherSystemOfLibosinfoIsNotWindowsWhateverItsFeatures) {
  const std::string text =
      "<domain type='kvm'><metadata><l:libosinfo "
      "xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'><l:os "
      "id='http://debian.org/debian/12'/></l:libosinfo></metadata><features><hyperv/></features>"
      "<devices>" +
      DiskXml("vda", "virtio") + "</devices></domain>";
  const auto result = Rewrite(text, ToScsi());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->refusals, IsEmpty());
}

TEST(RewriteBusTest, ASystemThatLibosinfoDoesNotKnowIsJudgedByItsFeatures) {
  for (const std::string id :
       {"http://libosinfo.org/unknown/generic", "http://libosinfo.org/linux/2022"}) {
    for (const bool hyperv : {true, false}) {
      const std::string text =
          "<domain type='kvm'><metadata><l:libosinfo "
          "xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'><l:os id='" +
          id + "'/></l:libosinfo></metadata>" + (hyperv ? "<features><hyperv/></features>" : "") +
          "<devices>" + DiskXml("vda", "virtio") + "</devices></domain>";
      const auto result = Rewrite(text, ToScsi());
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(result->refusals.size(), hyperv ? 1u : 0u) << id;
    }
  }
}

TEST(RewriteBusTest, ChangesAreNamedByTheOldTarget) {
  const auto result = Rewrite(DomainXml("q35", DiskXml("vda", "virtio")), ToScsi());
  ASSERT_TRUE(result.ok()) << result.status();
  for (const Change& change : result->changes)
    EXPECT_TRUE(change.target == "vda" || change.what == "controller") << change.what;
}

}  // namespace
}  // namespace virt_reclaim::xml
