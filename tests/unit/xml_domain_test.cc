#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "xml-tools/domain.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kLive[] = R"(<domain type='kvm' id='3' xmlns:x='urn:manager'>
  <name> web </name><uuid>01234567-89ab-cdef-0123-456789abcdef</uuid>
  <metadata><x:vm/><x:more/><other xmlns='urn:other'/><plain/></metadata>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <disk type='file'>
      <driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap' detect_zeroes='on' discard_no_unref='on'/>
      <source file='/vm/top.qcow2'/>
      <backingStore type='file'><format type='qcow2'/><source file='/vm/mid.qcow2'/>
        <backingStore type='block'><format type='raw'/><source dev='/dev/vg/base'/><backingStore/></backingStore>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <serial>S1</serial><alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x1f' function='0x7'/>
    </disk>
    <disk type='network' device='cdrom'>
      <source protocol='rbd' name='pool/image'/><target dev='sdb' bus='scsi'/><readonly/><shareable/>
      <wwn>5000c50015ea71ac</wwn><address type='drive' controller='1' bus='0' target='2' unit='3'/>
    </disk>
    <disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdb'/><transient/><mirror/>
      <address type='pci' slot='zero'/></disk>
    <controller type='scsi' index='1' model='virtio-scsi'><address type='pci' bus='0x05' slot='0'/></controller>
    <controller type='usb'/>
    <channel type='unix'><source mode='bind' path='/run/c.sock'/>
      <target type='virtio' name='org.example.0' state='connected'/></channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <x:disk><target dev='vdx'/></x:disk>
  </devices>
</domain>)";

TEST(XmlDomainTest, ReadsWhatTheMetadataSayToThePolicy) {
  const auto run = [](const std::string& metadata) {
    const auto domain = ParseDomain("<domain><metadata>" + metadata + "</metadata></domain>");
    EXPECT_TRUE(domain.ok()) << domain.status();
    return domain.ok() ? domain->policy_run : "";
  };
  EXPECT_EQ(run("<x:vm xmlns:x='urn:other'/>"), "");
  EXPECT_EQ(run("<vr:policy xmlns:vr='urn:virt-reclaim:policy:1' run='no'/>"), "no");
  EXPECT_EQ(run("<a/><policy xmlns='urn:virt-reclaim:policy:1' run='yes'/>"), "yes");
  EXPECT_EQ(run("<policy xmlns='urn:virt-reclaim:policy:1'/>"), "?");
  EXPECT_EQ(run("<policy run='no'/>"), "");
  EXPECT_EQ(run("<vr:other xmlns:vr='urn:virt-reclaim:policy:1' run='no'/>"), "");
}

TEST(XmlDomainTest, ReadsTheFacts) {
  const auto domain = ParseDomain(kLive);
  ASSERT_TRUE(domain.ok()) << domain.status();
  EXPECT_EQ(domain->type, "kvm");
  EXPECT_EQ(domain->name, "web");
  EXPECT_EQ(domain->uuid, "01234567-89ab-cdef-0123-456789abcdef");
  EXPECT_EQ(domain->arch, "x86_64");
  EXPECT_EQ(domain->machine, "pc-q35-7.2");
  EXPECT_THAT(domain->metadata_namespaces, ElementsAre("urn:manager", "urn:other"));
  ASSERT_EQ(domain->disks.size(), 3u);
  ASSERT_EQ(domain->controllers.size(), 2u);
  EXPECT_EQ(domain->controllers[0].model, "virtio-scsi");
  EXPECT_EQ(domain->controllers[0].index, 1u);
  EXPECT_EQ(domain->controllers[0].pci, (PciAddress{0, 5, 0, 0}));
  ASSERT_EQ(domain->channels.size(), 2u);
  EXPECT_EQ(domain->channels[0].name, "org.example.0");
  EXPECT_EQ(domain->channels[0].state, "connected");
  EXPECT_EQ(domain->channels[0].socket, "/run/c.sock");
  EXPECT_EQ(domain->channels[1].socket, "");
}

TEST(XmlDomainTest, ReadsDisks) {
  const auto domain = ParseDomain(kLive);
  ASSERT_TRUE(domain.ok()) << domain.status();
  const Disk& vda = domain->disks[0];
  EXPECT_EQ(vda.device, "disk");
  EXPECT_EQ(vda.source.path, "/vm/top.qcow2");
  EXPECT_EQ(vda.source.format, "qcow2");
  EXPECT_EQ(vda.cache + vda.io + vda.discard + vda.detect_zeroes, "nonenativeunmapon");
  EXPECT_EQ(vda.discard_no_unref, "on");
  ASSERT_EQ(vda.backing.size(), 2u);
  EXPECT_EQ(vda.backing[1].type, "block");
  EXPECT_EQ(vda.backing[1].format, "raw");
  EXPECT_EQ(vda.backing[1].path, "/dev/vg/base");
  EXPECT_EQ(vda.serial, "S1");
  EXPECT_EQ(vda.pci, (PciAddress{0, 4, 0x1f, 7}));
  EXPECT_EQ(vda.drive, std::nullopt);
  const Disk& sdb = domain->disks[1];
  EXPECT_EQ(sdb.source.path, "rbd:pool/image");
  EXPECT_TRUE(sdb.read_only && sdb.shareable && !sdb.transient);
  EXPECT_EQ(sdb.discard_no_unref, "");
  EXPECT_EQ(sdb.wwn, "5000c50015ea71ac");
  EXPECT_EQ(sdb.drive, (DriveAddress{1, 0, 2, 3}));
  const Disk& vdb = domain->disks[2];
  EXPECT_EQ(vdb.source.path, "p/v");
  EXPECT_TRUE(vdb.transient && vdb.has_mirror);
  EXPECT_EQ(vdb.pci, std::nullopt);
}

TEST(XmlDomainTest, NamesOtherRoots) {
  EXPECT_THAT(std::string(ParseDomain("<domainsnapshot/>").status().message()),
              HasSubstr("snapshot"));
  EXPECT_THAT(std::string(ParseDomain("<domstatus/>").status().message()),
              HasSubstr("status file"));
  EXPECT_THAT(std::string(ParseDomain("<html/>").status().message()),
              HasSubstr("'html', not 'domain'"));
  EXPECT_THAT(std::string(ParseDomain("<p:domain xmlns:p='urn:p'/>").status().message()),
              HasSubstr("namespace 'urn:p'"));
  EXPECT_TRUE(ParseDomain("<domain/>").ok());
}

struct PathCase {
  const char* machine;
  const char* bus;
  const char* model;
  DiscardPath expected;
};

class DiscardPathTest : public testing::TestWithParam<PathCase> {};

TEST_P(DiscardPathTest, IsTheMeasuredTable) {
  const PathCase& c = GetParam();
  Domain domain;
  domain.machine = c.machine;
  if (c.model != nullptr) domain.controllers.push_back({"scsi", c.model, 0, std::nullopt});
  Disk disk;
  disk.target = "sda";
  disk.bus = c.bus;
  EXPECT_EQ(DiscardPathOf(domain, disk), c.expected)
      << c.machine << " " << c.bus << " " << (c.model == nullptr ? "-" : c.model);
}

constexpr auto kPasses = DiscardPath::kPasses, kOld = DiscardPath::kMachineTooOld,
               kDrops = DiscardPath::kBusDrops, kUnknown = DiscardPath::kUnknown;
INSTANTIATE_TEST_SUITE_P(
    Xml, DiscardPathTest,
    testing::Values(
        PathCase{"pc-i440fx-3.1", "virtio", nullptr, kOld},
        PathCase{"pc-i440fx-2.12", "virtio", nullptr, kOld},
        PathCase{"pc-i440fx-4.0", "virtio", nullptr, kPasses},
        PathCase{"pc-q35-10.0", "virtio", nullptr, kPasses},
        PathCase{"pc-q35-4.0.1", "virtio", nullptr, kPasses},
        PathCase{"q35", "virtio", nullptr, kPasses}, PathCase{"", "virtio", nullptr, kPasses},
        PathCase{"microvm", "virtio", nullptr, kPasses},
        PathCase{"pc-q35-rhel9.2.0", "virtio", nullptr, kPasses},
        PathCase{"pc-q35-rhel8.0.0", "virtio", nullptr, kOld},
        PathCase{"pc-i440fx-rhel7.6.0", "virtio", nullptr, kOld},
        PathCase{"virt-rhel9.2.0", "virtio", nullptr, kUnknown},
        PathCase{"pc-q35-disco", "virtio", nullptr, kOld},
        PathCase{"pc-q35-eoan-hpb", "virtio", nullptr, kPasses},
        PathCase{"pc-q35-questing", "virtio", nullptr, kUnknown},
        PathCase{"s390-ccw-virtio-noble", "virtio", nullptr, kUnknown},
        PathCase{"isapc", "virtio", nullptr, kUnknown},
        PathCase{"pseries-2.12-sxxm", "virtio", nullptr, kUnknown},
        PathCase{"pc-i440fx-2.0", "ide", nullptr, kPasses},
        PathCase{"pc-q35-2.4", "sata", nullptr, kPasses}, PathCase{"q35", "usb", nullptr, kDrops},
        PathCase{"q35", "sd", nullptr, kDrops}, PathCase{"pc", "fdc", nullptr, kDrops},
        PathCase{"pc", "xen", nullptr, kUnknown}, PathCase{"pc", "scsi", nullptr, kPasses},
        PathCase{"pseries-7.2", "scsi", nullptr, kUnknown},
        PathCase{"pc", "scsi", "virtio-scsi", kPasses}, PathCase{"pc", "scsi", "lsilogic", kPasses},
        PathCase{"pc", "scsi", "lsisas1078", kPasses}, PathCase{"pc", "scsi", "vmpvscsi", kPasses},
        PathCase{"pc", "scsi", "am53c974", kDrops}, PathCase{"pc", "scsi", "dc390", kDrops},
        PathCase{"pc", "scsi", "lsisas1068", kUnknown},
        PathCase{"pc", "scsi", "ibmvscsi", kUnknown}, PathCase{"pc", "", nullptr, kPasses}));

TEST(DiscardPathTest, FindsTheControllerOfADisk) {
  Domain domain;
  domain.machine = "pc";
  domain.controllers = {{"scsi", "virtio-scsi", 0, std::nullopt},
                        {"scsi", "am53c974", 1, std::nullopt}};
  Disk disk;
  disk.bus = "scsi";
  disk.target = "sdg";
  EXPECT_EQ(DiscardPathOf(domain, disk), kPasses);
  disk.target = "sdh";
  EXPECT_EQ(DiscardPathOf(domain, disk), kDrops);
  disk.drive = DriveAddress{0, 0, 0, 7};
  EXPECT_EQ(DiscardPathOf(domain, disk), kPasses);
}

}  // namespace
}  // namespace virt_reclaim::xml
