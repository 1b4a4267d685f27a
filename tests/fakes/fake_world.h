// A hypervisor with its images and guests, in memory: the fake twin of every host service. A domain
// is made from XML; its agent trims by lowering the allocation of an image, as QEMU would, unless
// the disk drops discards.
#ifndef VIRT_RECLAIM_TESTS_FAKES_FAKE_WORLD_H_
#define VIRT_RECLAIM_TESTS_FAKES_FAKE_WORLD_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "host/commands/services.h"
#include "tests/fakes/fake_beats.h"

namespace virt_reclaim {

// What a fake domain's agent does.
struct FakeAgent {
  absl::Status connect;  // not OK: no session comes about
  absl::Status list;     // not OK: ListFilesystems fails
  absl::Status trim;     // the status a Trim ends with
  GuestFacts facts;
  std::vector<GuestTrim> trims;           // what a Trim reports
  std::map<std::string, uint64_t> freed;  // per image path: what a Trim takes from the allocation
  absl::Duration listing_takes = absl::ZeroDuration();  // likewise of ListFilesystems
  absl::Duration takes = absl::ZeroDuration();  // a Trim; past its timeout it is DeadlineExceeded
  std::function<void()> while_listing, while_trimming;
  uint64_t pieces = 0;  // of each of `trims`, a minute each; their numbers are its offsets
  std::function<void(uint64_t)> after_piece;
  absl::Status after_pieces;       // not OK: what a trim ends with after those of the first
  bool tells_no_progress = false;  // like btrfs, of which a trim is one call
  bool waits_for_stop = false;     // a Trim lasts until it is stopped, 10 s at most
  // Image path behind each mount point: a marker takes room in it, and gives it back when
  // `marker_comes_back`.
  std::map<std::string, std::string> image_of;
  bool marker_comes_back = true;
  // Mount points of filesystems in files, and of what holds these, in whose `used` a marker is: as
  // long as it is there, and longer when `file_gets_holes` is not set. It leaves the image only
  // when the holder is mounted with 'discard'.
  std::map<std::string, std::string> holder_of;
  bool file_gets_holes = true;
  std::map<std::string, uint64_t> most_marker;  // by mount point; absent: no limit
  // Where it lies in the image, when the guest tells: only the allocated ranges of the image that
  // are these come and go with it.
  std::vector<GuestMarker::Extent> marker_extents;
  std::string marker_disk;
  std::function<void()> while_discarding;
  // What FixGuest does; empty: an older agent.
  std::function<absl::StatusOr<GuestFix>(GuestFixAction)> fix;
  std::map<std::string, GuestFreeMap> free_maps;  // by mount point
  absl::Duration free_map_takes;
  absl::StatusOr<GuestPreflight> preflight;  // of a modern guest that names nothing by path
  FakeAgent();
};

// What a fake domain's qemu-guest-agent does: nothing, as long as it has no answers.
struct FakeQemuAgent {
  std::map<std::string, absl::StatusOr<std::string>> answers;  // by command; JSON
  std::map<std::string, uint64_t> freed;                       // of guest-fstrim, per image path
  bool pauses_domain = false;                                  // so does guest-fstrim
  std::function<void()> while_trimming;                        // likewise
  // Who answers in the place of `answers` (fake_guest_tree.h).
  std::function<absl::StatusOr<std::string>(const std::string& command)> handler;
};

struct FakeDomain {
  DomainSummary summary;
  std::string live_xml, inactive_xml;
  absl::Status xml_error;                             // not OK: its definitions cannot be read
  std::string first_xml;                              // as it was added
  std::map<std::string, Usage> block_usage;           // per target
  std::map<std::string, uint64_t> device_properties;  // of its QEMU: "virtio-disk0.discard"
  std::vector<Blocker> activity;
  absl::Status jobs_unknown;  // not OK: Jobs, but not Activity, fails with it
  bool managed_save = false;
  SnapshotCount snapshots;
  std::string backup_xml;  // of the job under way; empty: none
  std::vector<std::string> checkpoints;
  std::string directory;      // of its QEMU; empty: none is known
  std::string backup_socket;  // of the last job that was begun
  // Serves its disks.
  std::function<void(const std::string& backup_xml)> while_beginning_backup;
  absl::Status begin_backup;      // not OK: BeginBackup fails with it
  bool checkpoints_lost = false;  // DataLoss of a BeginBackup that stands on one
  absl::Status backup_xml_error;  // not OK: nobody can tell whether there is a job
  absl::Status end_backup;        // not OK: EndBackup fails with it
  absl::Status freeze;            // not OK: it freezes, and says this
  absl::Status thaw;              // not OK: it stays frozen
  uint64_t disk_requests = 0;
  // Of a guest that does not boot: there is still I/O; nobody can tell.
  bool dead_with_io = false;
  absl::Status statistics;
  uint64_t bytes_written = 0;
  bool paused_by_io_error = false;  // when it is paused
  uint64_t needs_room = 0;          // with less on its storage it is paused again at once
  // How its guest takes a power cycle.
  bool ignores_shutdown = false;
  absl::Status shutdown;       // not OK: what it says of a shutdown, which it does all the same
  absl::Duration power_takes;  // to come or to go: libvirt shows what lies between, as it does
  absl::Time settled_at = absl::InfinitePast();
  bool paused_after_start = false;
  absl::Status start;  // not OK: Start fails with it, as long as the new definition is in force
  std::string cannot_boot_with;  // a text of the definition with which the guest is dead
  std::optional<GuestFilesystem> boots_from;  // its only filesystem after a start
  absl::Status channel;                       // not OK: OpenChannel fails with it
  absl::Status attach;                        // not OK: AttachDevice fails with it
  // A channel with somebody behind it who speaks the link, in the place of `agent`.
  std::function<std::unique_ptr<link::Port>()> port;
  FakeAgent agent;
  FakeQemuAgent qemu_agent;
  std::vector<std::string> qemu_commands;  // that it was given
  // Whoever is told of its I/O errors.
  std::function<void(const std::string&)> on_io_error;
  // What its disks say while it is off.
  absl::StatusOr<GuestPreflight> offline = absl::FailedPreconditionError("nothing is on its disks");

  bool IsDead() const;  // off, or cannot boot
};

// What a program that is killed looks like from inside. Not caught by anything of ours.
struct FakeCrash {};

class FakeWorld {
 public:
  FakeWorld();
  ~FakeWorld();

  // A domain whose live and inactive XML are `xml`; name and UUID are read from it.
  FakeDomain& AddDomain(const std::string& xml, DomainState state);
  // A raw image of this machine.
  void AddImage(const std::string& path, uint64_t capacity, uint64_t allocation);

  // The services over this world; locks and state go to a temporary directory.
  Services services();
  const std::string& directory() const { return directory_; }

  std::map<std::string, FakeDomain> domains;            // by UUID
  std::map<std::string, Usage> images;                  // by path
  std::map<std::string, std::string> volumes;           // paths, by "pool/volume"
  std::map<std::string, std::vector<Range>> allocated;  // by path: where; absent: nobody knows
  // By path of a qcow2 image: its data file, which is in `images`, too; empty: nobody can look at
  // it.
  std::map<std::string, std::string> data_files;
  std::map<std::string, uint64_t> devices;  // by path of an image: st_dev; else 1
  std::set<std::string> replaced;           // images that are another file by now
  bool can_punch = true;
  uint64_t room = uint64_t{1} << 40;                                  // bytes free on every storage
  std::map<std::string, uint64_t> rooms;                              // of single files, by path
  absl::StatusOr<absl::Duration> punch_cost = absl::Microseconds(1);  // per MiB
  std::function<absl::Duration()> read_takes;                         // of its storages; else 1 ms
  std::vector<absl::Duration> trim_pauses;                            // that trims were told
  bool knows_trim_pause = true;                                       // every agent
  std::vector<GuestTrimOptions> trimmed_with;                         // by our agents
  std::vector<std::string> reached;                                   // pieces of trims: "/#3"
  uint32_t internal_snapshots = 0;                                    // of every image
  uint64_t granularity = 0;                                           // of every image
  uint32_t qcow2_version = 0;                                         // of every image
  ImageHeader header;  // what else every image says of itself
  std::map<std::string, absl::StatusOr<ImageHeader>> headers;  // of single images, by path
  // What Sparsify answers, whatever it is asked.
  absl::StatusOr<sparsify::SparsifyResult> sparsify = absl::UnimplementedError("not filled in");
  std::vector<std::string> calls;  // what changed something: "define web"
  absl::Status define;             // not OK: Define fails with it
  std::string stored_xml;          // not empty: what libvirt stores in place of what was defined
  std::vector<HostDevice> block_storage;  // below every image on a block device
  bool images_are_local = true;
  bool has_offline_guest = true;         // virt-reclaim-guestfs is installed
  std::vector<OfflineDisk> disks_read;   // by it, last
  std::function<void()> while_defining;  // what happens meanwhile
  std::function<void()> while_reading;   // what happens meanwhile
  xml::HostMachines machines;            // of the host
  FakeBeats beats;                       // those of trims beat at their start and after pieces

  std::atomic<int> definitions_read = 0;  // how often

  // The program dies (FakeCrash is thrown) at the n-th point from now at which it could: before
  // and after whatever changes something, and whenever it asks for the time. 0: never.
  int crash_in = 0;
  void MayCrash();
  // Time passes. Any thread.
  void Sleep(absl::Duration duration);
  absl::Time Now();  // without a crash
  void NoteTrim(const GuestTrimOptions& options);
  void NoteReached(const std::string& piece);

 private:
  std::string directory_;
  std::unique_ptr<Hypervisor> hypervisor_;
  std::unique_ptr<ImageStore> image_store_;
  std::unique_ptr<OfflineGuest> offline_guest_;
  std::mutex clock_;
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);

  friend class FakeHypervisor;
};

// UUIDs of domains: of one, of another, of many.
inline constexpr char kUuid[] = "11111111-2222-3333-4444-555555555555";
inline constexpr char kUuid2[] = "11111111-2222-3333-4444-666666666666";
std::string Uuid(int number);

// The XML of a small domain: one virtio disk per image, and the agent's channel.
struct FakeDisk {
  std::string target, bus, image, discard;
};
std::string DomainXml(const std::string& name, const std::string& uuid, const std::string& machine,
                      const std::vector<FakeDisk>& disks, const std::string& channel_state);

// A filesystem of the guest on the disk with PCI slot `slot`.
GuestFilesystem FilesystemOn(const std::string& disk, uint32_t slot, const std::string& mount_point,
                             uint64_t size, uint64_t used);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_FAKES_FAKE_WORLD_H_
