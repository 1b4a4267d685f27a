#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"
#include "xml-tools/stored.h"

namespace virt_reclaim::xml {
namespace {

// As libvirt 9.0 shows one, with secrets; a disk has just been moved to another bus.
constexpr char kGiven[] =
    R"(<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <metadata>
    <vr:policy xmlns:vr='urn:virt-reclaim:policy:1' run='no'/>
  </metadata>
  <memory unit='KiB'>1048576</memory>
  <currentMemory unit='KiB'>524288</currentMemory>
  <vcpu placement='static' current='1'>2</vcpu>
  <iothreads>1</iothreads>
  <os firmware='efi'>
    <type arch='x86_64' machine='pc-q35-4.0'>hvm</type>
    <loader readonly='yes' secure='yes' type='pflash'>/usr/share/OVMF/code.fd</loader>
    <nvram>/var/lib/libvirt/qemu/nvram/web.fd</nvram>
    <boot dev='hd'/>
    <boot dev='network'/>
  </os>
  <features>
    <acpi/>
    <smm state='on'/>
  </features>
  <cpu mode='custom' match='exact' check='none'>
    <model fallback='forbid'>qemu64</model>
    <feature policy='disable' name='svm'/>
  </cpu>
  <clock offset='utc'>
    <timer name='rtc' tickpolicy='catchup'/>
    <timer name='pit' tickpolicy='delay'/>
  </clock>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap' detect_zeroes='off' iothread='1'/>
      <source file='/images/web.qcow2' startupPolicy='mandatory'>
        <encryption format='luks'>
          <secret type='passphrase' uuid='aaaaaaaa-2222-3333-4444-555555555555'/>
        </encryption>
      </source>
      <target dev='vda' bus='virtio'/>
      <serial>root-disk</serial>
      <boot order='1'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' discard='unmap'/>
      <auth username='admin'>
        <secret type='ceph' usage='rbd'/>
      </auth>
      <source protocol='rbd' name='pool/data'>
        <host name='mon' port='6789'/>
      </source>
      <target dev='sda' bus='scsi'/>
      <shareable/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
    <controller type='scsi' index='0' model='virtio-scsi'>
      <driver queues='2'/>
    </controller>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='1' model='pcie-root-port'>
      <model name='pcie-root-port'/>
      <target chassis='1' port='0x10'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
    </controller>
    <controller type='virtio-serial' index='0'/>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <source network='default'/>
      <model type='virtio'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </interface>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:02'/>
      <source bridge='br0'/>
      <model type='e1000'/>
    </interface>
    <channel type='unix'>
      <target type='virtio' name='org.virt_reclaim.agent.v1'/>
    </channel>
    <graphics type='vnc' port='-1' autoport='yes' passwd='s3cr3t'/>
    <hostdev mode='subsystem' type='scsi'>
      <source>
        <adapter name='scsi_host0'/>
        <address bus='0' target='0' unit='3'/>
      </source>
      <address type='drive' controller='0' bus='0' target='0' unit='1'/>
    </hostdev>
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
    </rng>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-no-hpet'/>
  </qemu:commandline>
</domain>
)";

struct Change {
  const char* before;
  const char* after;
  const char* where;  // FirstDifference
};

std::string Stored(const char* before, const char* after) {
  const std::string given = kGiven;
  EXPECT_NE(given.find(before), std::string::npos) << before;
  return absl::StrReplaceAll(given, {{before, after}});
}

TEST(StoredTest, EveryFieldThatDiffersIsNoticed) {
  const std::vector<Change> changes = {
      {"<domain type='kvm'", "<domain type='qemu'", "@type"},
      {"<name>web<", "<name>wed<", "name/text()"},
      {">11111111-", ">21111111-", "uuid/text()"},
      {"run='no'", "run='yes'", "metadata/vr:policy/@run"},
      {"urn:virt-reclaim:policy:1", "urn:virt-reclaim:policy:2", "metadata/vr:policy"},
      {">1048576<", ">1048577<", "memory/text()"},
      {"<memory unit='KiB'>", "<memory unit='MiB'>", "memory/@unit"},
      {">524288<", ">1048576<", "currentMemory/text()"},
      {"current='1'>2<", "current='1'>1<", "vcpu/text()"},
      {" current='1'", "", "vcpu/@current"},
      {"<iothreads>1</iothreads>", "", "iothreads"},
      {"<os firmware='efi'>", "<os>", "os/@firmware"},
      {"machine='pc-q35-4.0'", "machine='pc-q35-3.1'", "os/type/@machine"},
      {"arch='x86_64'", "arch='i686'", "os/type/@arch"},
      {"secure='yes'", "secure='no'", "os/loader/@secure"},
      {"nvram/web.fd", "nvram/wed.fd", "os/nvram/text()"},
      {"<boot dev='network'/>", "", "os/boot[2]"},
      {"<boot dev='hd'/>\n    <boot dev='network'/>", "<boot dev='network'/>\n    <boot dev='hd'/>",
       "os/boot/@dev"},
      {"<acpi/>", "", "features/acpi"},
      {"<acpi/>", "<acpi/><apic/>", "features/apic"},
      {"<smm state='on'/>", "<smm state='off'/>", "features/smm/@state"},
      {"mode='custom'", "mode='host-model'", "cpu/@mode"},
      {">qemu64<", ">qemu32<", "cpu/model/text()"},
      {"name='svm'", "name='vmx'", "cpu/feature/@name"},
      {"<feature policy='disable' name='svm'/>", "", "cpu/feature"},
      {"tickpolicy='delay'", "tickpolicy='discard'", "clock/timer[2]/@tickpolicy"},
      {"<clock offset='utc'>", "<clock offset='localtime'>", "clock/@offset"},
      {">destroy<", ">restart<", "on_poweroff/text()"},
      {"qemu-system-x86_64", "qemu-kvm", "devices/emulator/text()"},
      // What a migration changes.
      {"cache='none' io='native' discard='unmap'", "cache='none' io='native'",
       "devices/disk[vda]/driver/@discard"},
      {"cache='none' io='native' discard='unmap'", "cache='none' io='native' discard='ignore'",
       "devices/disk[vda]/driver/@discard"},
      {" detect_zeroes='off'", " detect_zeroes='unmap'", "devices/disk[vda]/driver/@detect_zeroes"},
      {"bus='virtio'/>", "bus='sata'/>", "devices/disk[vda]/target/@bus"},
      {"dev='sda'", "dev='sdb'", "devices/disk[sda]"},
      {" model='virtio-scsi'", " model='lsilogic'", "devices/controller[scsi 0]/@model"},
      {" model='virtio-scsi'", "", "devices/controller[scsi 0]/@model"},
      {"queues='2'", "queues='3'", "devices/controller[scsi 0]/driver/@queues"},
      {"org.virt_reclaim.agent.v1", "org.virt_reclaim.agent.v2", "devices/channel/target/@name"},
      {"<controller type='virtio-serial' index='0'/>", "", "devices/controller[virtio-serial 0]"},
      // What else of a disk the guest sees, or depends on.
      {"/images/web.qcow2", "/images/wed.qcow2", "devices/disk[vda]/source/@file"},
      {"type='qcow2'", "type='raw'", "devices/disk[vda]/driver/@type"},
      {"cache='none'", "cache='unsafe'", "devices/disk[vda]/driver/@cache"},
      {"io='native'", "io='threads'", "devices/disk[vda]/driver/@io"},
      {" iothread='1'", "", "devices/disk[vda]/driver/@iothread"},
      {"<driver name='qemu' discard='unmap'/>",
       "<driver name='qemu' type='qcow2' discard='unmap'/>", "devices/disk[sda]/driver/@type"},
      {"<disk type='file' device='disk'>", "<disk type='file' device='lun'>",
       "devices/disk[vda]/@device"},
      {"<disk type='file' device='disk'>", "<disk type='block' device='disk'>",
       "devices/disk[vda]/@type"},
      {">root-disk<", ">data-disk<", "devices/disk[vda]/serial/text()"},
      {"<boot order='1'/>", "<boot order='2'/>", "devices/disk[vda]/boot/@order"},
      {"<boot order='1'/>", "<boot order='1'/><readonly/>", "devices/disk[vda]/readonly"},
      {"<shareable/>", "", "devices/disk[sda]/shareable"},
      {"bus='0x04'", "bus='0x05'", "devices/disk[vda]/address/@bus"},
      {"target='0' unit='0'/>", "target='0' unit='2'/>", "devices/disk[sda]/address/@unit"},
      {"name='pool/data'", "name='pool/date'", "devices/disk[sda]/source/@name"},
      {"<host name='mon'", "<host name='mom'", "devices/disk[sda]/source/host/@name"},
      {"startupPolicy='mandatory'", "startupPolicy='optional'",
       "devices/disk[vda]/source/@startupPolicy"},
      {"<controller type='pci' index='0' model='pcie-root'/>",
       "<controller type='pci' index='0' model='pci-root'/>", "devices/controller[pci 0]/@model"},
      {"port='0x10'", "port='0x11'", "devices/controller[pci 1]/target/@port"},
      {"<controller type='virtio-serial' index='0'/>",
       "<controller type='virtio-serial' index='0'/><controller type='scsi' index='1' "
       "model='lsilogic'/>",
       "devices/controller[scsi 1]"},
      {"<rng model='virtio'>",
       "<disk type='file' device='cdrom'><target dev='sdb' bus='sata'/></disk><rng model='virtio'>",
       "devices/disk[sdb]"},
      // Other devices.
      {"52:54:00:00:00:01", "52:54:00:00:00:03", "devices/interface/mac/@address"},
      {"<source network='default'/>", "<source network='other'/>",
       "devices/interface/source/@network"},
      {"<model type='e1000'/>", "<model type='rtl8139'/>", "devices/interface[2]/model/@type"},
      {"scsi_host0", "scsi_host1", "devices/hostdev/source/adapter/@name"},
      {"<address bus='0' target='0' unit='3'/>", "", "devices/hostdev/source/address"},
      {"<source network='default'/>", "<source network='default'><address type='pci'/></source>",
       "devices/interface/source/address"},
      {"/dev/urandom", "/dev/random", "devices/rng/backend/text()"},
      {"'-no-hpet'", "'-no-acpi'", "qemu:commandline/qemu:arg/@value"},
      // Secrets.
      {" passwd='s3cr3t'", "", "devices/graphics/@passwd"},
      {"passwd='s3cr3t'", "passwd='s3cr3d'", "devices/graphics/@passwd"},
      {"username='admin'", "username='root'", "devices/disk[sda]/auth/@username"},
      {"usage='rbd'", "usage='rdb'", "devices/disk[sda]/auth/secret/@usage"},
      {"uuid='aaaaaaaa-", "uuid='baaaaaaa-", "devices/disk[vda]/source/encryption/secret/@uuid"},
  };
  for (const Change& change : changes) {
    const auto found = FirstDifference(kGiven, Stored(change.before, change.after));
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(*found, change.where) << change.before << " -> " << change.after;
    EXPECT_EQ(found->find("s3cr"), std::string::npos);
  }
}

TEST(StoredTest, WhatLibvirtDoesByItselfIsNoDifference) {
  const std::vector<Change> changes = {
      {"\n", "\n\n  ", ""},
      {"'", "\"", ""},
      {"<acpi/>", "<!-- of the host's own --><acpi></acpi>", ""},
      {"type='network' device='disk'", "device='disk' type='network'", ""},
      {"<driver name='qemu' discard='unmap'/>", "<driver name='qemu' type='raw' discard='unmap'/>",
       ""},
      {"<controller type='virtio-serial' index='0'/>",
       "<controller type='virtio-serial' index='0'><address type='pci' domain='0x0000' bus='0x05' "
       "slot='0x00' function='0x0'/></controller>",
       ""},
      {"name='org.virt_reclaim.agent.v1'/>",
       "name='org.virt_reclaim.agent.v1'/><address type='virtio-serial' controller='0' bus='0' "
       "port='1'/>",
       ""},
      {"<controller type='virtio-serial' index='0'/>",
       "<controller type='virtio-serial' index='0'/><controller type='pci' index='2' "
       "model='pcie-root-port'>"
       "<model name='pcie-root-port'/><target chassis='2' port='0x11'/></controller>",
       ""},
      {"<controller type='virtio-serial' index='0'/>",
       "<controller type='virtio-serial' index='0'/><controller type='virtio-serial' index='1'/>",
       ""},
      {"slot='0x02' function='0x0'/>", "slot='0x02' function='0x0' multifunction='on'/>", ""},
      {"slot='0x02' function='0x0'/>", "slot='0x02' function='0x0' multifunction='off'/>",
       "devices/controller[pci 1]/address/@multifunction"},
      {"<iothreads>1</iothreads>", "", "iothreads"},  // that these are looked at at all
  };
  for (const Change& change : changes)
    EXPECT_EQ(FirstDifference(kGiven, Stored(change.before, change.after)).value(), change.where)
        << change.after;
  // It sorts disks and controllers; and their own way back is the same.
  std::string sorted = kGiven;
  const size_t file = sorted.find("<disk type='file'"),
               network = sorted.find("<disk type='network'"), end = sorted.find("<controller");
  sorted = sorted.substr(0, file) + sorted.substr(network, end - network) +
           sorted.substr(file, network - file) + sorted.substr(end);
  EXPECT_EQ(FirstDifference(kGiven, sorted).value(), "");
  EXPECT_EQ(FirstDifference(sorted, kGiven).value(), "");
}

TEST(StoredTest, WhatCannotBeReadIsAnError) {
  EXPECT_FALSE(FirstDifference(kGiven, "<domain>").ok());
  EXPECT_FALSE(FirstDifference("", kGiven).ok());
  EXPECT_EQ(FirstDifference(kGiven, "<domainsnapshot/>").value(), "/");
}

}  // namespace
}  // namespace virt_reclaim::xml
