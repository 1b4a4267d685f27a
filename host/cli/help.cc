#include "host/cli/help.h"

namespace virt_reclaim {
namespace {

constexpr absl::string_view kProgram = R"(usage: virt-reclaim [OPTIONS] VERB [OPTIONS] [DOMAIN...]

Gives a libvirt/QEMU hypervisor the disk space back that its guests have freed.

verbs:
  report          what each disk occupies, what its guest uses, what could come back, and what stands in the way
  explain         the way of a discard, layer by layer, from the guest to the host: the first that drops it, and the fix
  trim            let running guests trim their filesystems, and measure what the host got back
  migrate plan    show the smallest change of the domain XML that lets discards reach the host
  migrate apply   make that change (the old XML is kept); where asked, power-cycle, verify, roll back
  migrate verify  look whether migrated guests came back as they were
  migrate rollback   put the old definition back
  migrate status  where each domain's migration stands
  run             do what the policy says, within its windows and limits: what the timers call
  config check    look for mistakes in the policy
  config show     what the policy says, and where
  metrics         numbers for Prometheus: disks, storages, trims
  agent status    which guests have an agent, and why the others do not answer
  agent install   put the agent into guests, and its port into their domains
  sparsify        give back what stopped guests, or image files, have free inside
  virt-sparsify   the same with the command line, messages and statuses of libguestfs's virt-sparsify, also copying
  punch           make holes of the zero blocks in images and backups
  sync            make a copy equal to an image, in place and sparse: only what differs is written
  completion      print what a shell needs to complete these words

options, before or after the verb:
  -c, --connect URI   the hypervisor (default: LIBVIRT_DEFAULT_URI, else libvirt's own choice)
      --json          machine-readable output on stdout
  -n, --dry-run       stop after the plan: change nothing
      --state-dir DIR where old XML is kept (VIRT_RECLAIM_STATE_DIR; default /var/lib/virt-reclaim)
      --run-dir DIR   where locks are (VIRT_RECLAIM_RUN_DIR; default /run/virt-reclaim)
      --debug         let libvirt print its own messages
  -h, --help          this text, or that of a verb: virt-reclaim trim --help
  -V, --version       the version

exit status: 0 done, 1 error, 2 wrong usage, 3 some failed, 4 done but the host got nothing back,
             5 refused or busy, 130 interrupted
Reason codes and examples: man virt-reclaim
)";

constexpr absl::string_view kReport = R"(usage: virt-reclaim report [OPTIONS] [DOMAIN...]
       virt-reclaim df [OPTIONS] [DOMAIN...]

For every disk: capacity (what the guest sees), allocation (what it occupies on the host, like du), what the
guest's mounted filesystems use, what could come back (an estimate), and what keeps discards from the host.
Reads no disk contents but with --exact. A number that is not known is shown as '-'. The domains with the most
to be had come first. Once a domain has been trimmed, SINCE TRIM says what its images have grown by.

Guests are asked through virt-reclaim-agent; one that is silent is given up after 2 seconds.

options:
      --exact                    compare where each guest is free with what its images occupy, in place of an estimate
                                 from the amounts alone. Guests may have to read their bitmaps. Only of ext4 and XFS
                                 right on a disk or a partition; the others are estimated as always. The disks of
                                 guests that are off are read as 'sparsify --estimate' does
      --check WARNING,CRITICAL   answer as a monitoring plugin: two thresholds of what is reclaimable, such as
                                 20%,40% (of what is allocated) or 50G,200G
      --html FILE                also write a page: bars of storages and domains, their trend, and when each storage
                                 is full if images go on growing as they did. One file, without scripts
      --config FILE              look for copies that sync has not finished, in the backups of this policy
                                 (VIRT_RECLAIM_CONFIG; default /etc/virt-reclaim/config.toml); only when no domain is
                                 named
      --json                     machine-readable output

exit status: 0 done, 1 error, 2 wrong usage, 3 some domains could not be examined, 5 busy, 130 interrupted;
             with --check: 0 OK, 1 WARNING, 2 CRITICAL or wrong usage, 3 UNKNOWN
)";

constexpr absl::string_view kExplain = R"(usage: virt-reclaim explain [OPTIONS] DOMAIN[:TARGET]...
       virt-reclaim explain --codes [--json]

Walks the way of a discard, for each disk or for the one named: the guest's filesystem, what lies below it in the guest
(dm-crypt, LVM, md, loop), the guest's disk, bus and machine type, the disk's driver (now, and at the next start), the
image, the host's storage. For each layer: ok, partly (not all of what the guest frees comes back), drops or unknown;
then the first culprit and the fix. Changes nothing. A hole is tried in a nameless file beside the image.

options:
      --probe     prove it: the agent writes a marker of 16 MiB into the guest, deletes and trims it, and the
                  images must get smaller. Not while libvirt works on the domain or the guest is frozen
      --ask-qemu  ask QEMU itself whether its device takes discards, not only machine type and bus. libvirt calls the
                  domain tainted from then on, until it is shut down
      --codes     list all reason codes, what each means, and what it is in such a walk: a culprit, why a layer is
                  unknown, or a remark
  -n, --dry-run   no probe, and QEMU is not asked
      --json      machine-readable output

exit status: 0 no layer is known to drop discards, 1 error, 2 wrong usage, 3 some domains failed or were refused,
             4 a layer drops them, or the probe did not come back, 5 the probe was refused, 130 interrupted
)";

constexpr absl::string_view kTrim = R"(usage: virt-reclaim trim [OPTIONS] [DOMAIN...]

Lets running guests trim their filesystems (FITRIM, as fstrim does) through virt-reclaim-agent, or through
qemu-guest-agent where that is all there is, and shows side by side what the guest trimmed and what the host
freed: the allocation of all images of a disk, measured before and after. DOMAIN: a name, a UUID, or a pattern
such as 'web-*'; without it all running domains that have an agent. Domains whose images lie on different
storages are trimmed side by side.

options:
  -m, --minimum SIZE      leave free extents shorter than this
      --gentle            pause so long that others do not notice; takes up to 30 times as long
      --max-rate SIZE     trim at most so much a second, as the guest counts
      --chunk SIZE        trim in pieces of about this size, without pauses but those of --pause
      --pause TIME        wait between two pieces, at most 60s; 0: as fast as it goes
      --mount-point PATH  only this filesystem of the guest; may be given several times
      --way WAY           auto (default), agent: only virt-reclaim-agent, qemu-agent: only qemu-guest-agent, which
                          trims all filesystems at once and cannot be stopped
      --storage PATH      only domains with an image below PATH; when a filesystem is mounted there, on it
      --threshold SIZE    only domains with so much reclaimable, by estimate; or 10%, of the capacity of their disks
      --min-freed SIZE    only domains whose guests freed so much since their last trim, as the agent saw it
      --per-storage N     trim at most N domains at once on each storage (default 1)
      --window HH:MM-HH:MM   trim only at this time of day
      --max-duration TIME    of all trims; then the one under way stops after its piece, and no other begins
      --timeout TIME      wall clock for one domain (default 30m; with --gentle 8h)
  -n, --dry-run           show which domains would be trimmed, what is expected of it, and why others would not
      --json              machine-readable output

exit status: 0 done, 1 error, 2 wrong usage, 3 some failed, 4 done but the host got nothing back,
             5 refused or busy, 130 interrupted
)";

constexpr absl::string_view kMigrate = R"(usage: virt-reclaim migrate plan [OPTIONS] [DOMAIN...]
       virt-reclaim migrate apply [OPTIONS] DOMAIN... | --all | --plan FILE
       virt-reclaim migrate verify [OPTIONS] [DOMAIN... | --plan FILE]
       virt-reclaim migrate rollback [OPTIONS] DOMAIN... | --all | --plan FILE
       virt-reclaim migrate status [OPTIONS] [DOMAIN... | --plan FILE]

plan shows, apply makes, the smallest change of a domain's definition that lets discards reach the host:
discard='unmap' on its disks, and for virtio-blk disks a machine type of at least version 4.0 in the same family.
Everything else stays as it is. A running domain goes on unchanged until it is shut down and started again.

apply keeps the old XML below --state-dir, lets libvirt validate the new one, reads back what libvirt stored, and puts
the old definition back when that differs. With --power-cycle=shutdown it then shuts the guest down, starts it, and
waits until its agent answers and every filesystem is mounted again; a guest that does not come back is rolled back.
One without an agent is started, but not verified, and never rolled back by itself.
Each step is written to a journal first: after a kill or a power cut, apply goes on where it stood.

options of plan and apply:
      --diff             show the change of each XML as a unified diff
      --disk TARGET      only this disk (vda); may be given several times
      --machine WHAT     auto (default): raise the machine type only as far as a disk needs; keep; latest; or a name
                         (always in the same family; --keep-machine is --machine=keep)
      --bus WHAT         keep (default); virtio-scsi: move every disk there; auto: only disks that nothing else helps.
                         Only when the guest was asked and would find its disks; never a Windows boot disk
      --fix-guest        let the agent prepare the guest for a bus change: names by UUID, drivers into the initramfs;
                         with backups, and undone when it is not enough
      --channel add      also add the agent's channel, so that one power cycle does for both
      --detect-zeroes WHAT   keep (default), off, on, unmap: whether QEMU takes written zeroes for a discard
      --allow-thick      also images that occupy all of their capacity; trims make them thin
      --assume           take what is not known of a guest for good (kernel 5.0 for virtio-blk); never for a bus change
  -n, --dry-run          only show the plan
option of plan:
      --save FILE        write the plan to FILE, for --plan
option of apply, verify, rollback and status:
      --plan FILE        the domains of a saved plan; apply makes just that change, and leaves alone what is not as
                         it was then: definition, images, the change itself
options of apply and rollback:
      --all              all domains
      --power-cycle HOW  never (default): the change waits for the next power cycle; shutdown: shut the guest down
                         cleanly and start it; when-off: only domains that are off
      --shutdown-timeout TIME   for a guest to shut down (default 2m); it is never powered off instead
      --verify-timeout TIME     for a guest to come back (default 5m; up to four times that while its disks are busy)
option of rollback:
      --fix-guest        once the guest is on its old bus again, have the agent put its files back, too
options of apply:
  -y, --yes              do not ask; without a terminal nothing is ever asked
      --batch N|N%       so many domains at once, then look at the failures (default 1)
      --max-failures N   begin no further batch after more than N failures (default: go on)
      --pause TIME       wait between batches
      --window HH:MM-HH:MM   begin batches only at this time of day
of all:
      --json             machine-readable output

exit status: 0 done, 1 error, 2 wrong usage, 3 some failed, 4 done but discards still do not reach the host,
             5 refused or busy, 130 interrupted
)";

constexpr absl::string_view kSparsify = R"(usage: virt-reclaim sparsify [OPTIONS] DOMAIN|IMAGE...
       virt-reclaim sparsify [OPTIONS] --all-off
       virt-reclaim sparsify [OPTIONS] --output FILE IMAGE

Gives back to the host what the filesystems of stopped domains, or in image files, have free. An argument with a '/' is an
image file or block device, any other a domain. In place, without starting an appliance: virt-reclaim reads the free maps
of ext2/3/4, XFS, btrfs, NTFS, FAT, exFAT, LVM and swap itself, in a sandbox, and checks them as a whole first. What is not
wholly understood or not clean counts as in use, with the reason. Raw images get holes, block devices discards; qcow2
images are trimmed through qemu-storage-daemon.

Refused are images in use, domains that run, are paused or saved, images that others stand on, and qcow2 images with
internal snapshots, backing files, data files, encryption or persistent bitmaps.

options:
      --all-off          all domains that are off
      --storage PATH     only domains with an image below PATH; when a filesystem is mounted there, on it
      --output FILE      make a sparse copy in FILE instead, which must not be there yet
      --format FORMAT    of image files: raw or qcow2 (default: what libvirt says, else by their first bytes)
      --threshold SIZE   do nothing where less than this would come free
      --engine WHICH     auto (default): libguestfs's appliance for filesystems that are not known here; native; libguestfs
      --replay           let the appliance mount filesystems whose journal must be replayed, too
      --strict           only filesystems whose free maps have checksums (ext4 with metadata_csum, XFS 5, btrfs), and the
                         free extents of LVM groups
      --keep-swap        leave swap areas as they are (default: all but their first page comes free)
      --allow-thick      also images that occupy all of their capacity; that makes them thin
      --with-bitmaps     also qcow2 images with persistent bitmaps; a crash meanwhile would end a chain of backups
      --no-libvirt       there is no libvirt here: do not ask it who uses an image file
  -n, --dry-run          read, and say what would come free (--estimate is the same, --report is too)
      --json             machine-readable output

exit status: 0 done, 1 error, 2 wrong usage, 3 some failed, 4 done but the host got nothing back,
             5 refused or in use, 130 interrupted
)";

constexpr absl::string_view kPunch = R"(usage: virt-reclaim punch [OPTIONS] FILE|DIRECTORY...

Makes holes of the zero blocks of images and backups, so that they take no more storage than their data. A byte that was
not read as zero is never punched; what reads as zeroes before reads as zeroes after, and mtime stays. Needs no libvirt.

On XFS and btrfs the kernel compares and punches in one step, which is safe while others write. Elsewhere an image in use
is refused, and a domain that starts meanwhile starts: punch stops.

options:
  -r, --recursive        all files below directories
  -x, --one-file-system  ... on the same filesystem
      --files-from FILE  also the files that FILE lists, one a line; '-' is standard input
  -0, --null             ... each with a NUL behind it
      --live             also images in use, where that is safe (XFS with reflink, btrfs)
      --unwritten        preallocated space that was never written, too
      --min-hole SIZE    leave shorter runs of zeroes (default: one block of the filesystem)
      --no-release       btrfs: do not move what is left of extents; df will show less
      --new-mtime        do not put the mtime back
      --max-rate SIZE    read at most so much a second
      --idle             ask the disk only when nobody else does
  -n, --dry-run          read, and say what would be punched (--report is the same)
      --json             machine-readable output

exit status: 0 done, 1 error, 2 wrong usage, 3 some failed, 4 punched but nothing came free (shared extents),
             5 refused or in use, 130 interrupted
)";

constexpr absl::string_view kSync = R"(usage: virt-reclaim sync [OPTIONS] SRC DST
       virt-reclaim sync [OPTIONS] SRC... DIRECTORY
       virt-reclaim sync [OPTIONS] --domain NAME[:TARGET] DIRECTORY

Makes DST equal to SRC, in place and sparse: only blocks that differ are written, what is zero now becomes a hole, holes
are not read, and what DST shares with snapshots of itself stays shared. SRC and DST are files or block devices of this
machine; DST may be new. Needs no libvirt.

A file whose size and mtime are those of SRC is not looked at. DST gets SRC's mtime last, when all is on the disk: a run
that did not end is seen by that and by a mark, and the next one makes the copy whole. Files in use are refused.

options:
  -r, --recursive        what lies below a directory SRC goes below DIRECTORY; nothing there is deleted
  -x, --one-file-system  ... on the same filesystem
      --compare          look at files whose size and mtime are equal, too
      --atomic           the old DST stays until the new one is whole (XFS, btrfs, or a new DST)
      --overwrite-device DST is a block device that looks like it is used: overwrite it all the same
      --verify           read DST back and compare its xxh3 with that of what was read; with --compare that of
                         unchanged files, too
      --format FORMAT    SRC is an image of this format (qcow2): copy what a guest would see of it, to a raw DST
      --no-reflink       on the same filesystem write blocks instead of sharing them
      --max-rate SIZE    read at most so much a second
      --idle             ask the disk only when nobody else does
      --domain NAME      copy the disks of this running domain (NAME:vda: this one), all of one moment, to
                         DIRECTORY/NAME.TARGET.raw; the next run reads only what the guest has written since
      --freeze           ... and let qemu-guest-agent freeze its filesystems for that moment
      --clean            ... only take away what a killed run has left behind
  -n, --dry-run          read, and say what would be written
      --json             machine-readable output

exit status: 0 every file is copied, 1 error, 2 wrong usage, 3 some failed or were refused, or SRC was written
             meanwhile, 5 refused or in use, 130 interrupted
)";

constexpr absl::string_view kMetrics = R"(usage: virt-reclaim metrics [OPTIONS] [DOMAIN...]

Prints what report finds, what is remembered of trims, and the space of the storages below the images, as metrics for
Prometheus. It serves no port: with --textfile the node exporter's textfile collector reads them. The file is replaced as a
whole; a run that is killed leaves the old one. When libvirt cannot be asked the file says so, and has nothing else.

options:
      --textfile FILE     write them to FILE, for example /var/lib/prometheus/node-exporter/virt-reclaim.prom
  -n, --dry-run           print them, even so
      --json              machine-readable output

exit status: 0 done, 1 error, 2 wrong usage, 3 some domains could not be examined, 5 busy, 130 interrupted
)";

constexpr absl::string_view kAgent = R"(usage: virt-reclaim agent status [OPTIONS] [DOMAIN...]
       virt-reclaim agent install [OPTIONS] DOMAIN...

status: which guests have a virt-reclaim-agent, its version and kernel, and for the others the reason why none answers.

install adds the agent's port to the domain's definition, and plugs it into the running domain where that has a
virtio-serial controller; else it comes with the next power cycle. Into a running Linux guest with qemu-guest-agent it then
puts the program, its units and its udev rule: written beside their places, checked there by their SHA-256, renamed, and
started. What is there already and equal is left as it is. For guests that are off, or have no qemu-guest-agent that may do
this, it prints the steps to do by hand.

options of install:
      --agent-binary FILE   the program for the guest, best the static one (default: virt-reclaim-agent beside the units
                            in VIRT_RECLAIM_AGENT_FILES, which is /usr/share/virt-reclaim/agent)
  -n, --dry-run             ask the guests what is there, and say what would be done
of both:
      --json                machine-readable output

exit status: 0 done, 1 error, 2 wrong usage, 3 some failed, or installed and silent, 5 refused, busy, or left to be done by
             hand; status: a domain that was named has no agent to ask, 130 interrupted
)";

constexpr absl::string_view kRun = R"(usage: virt-reclaim run [OPTIONS]

Does what the policy says (virt-reclaim-config(5)): running domains are trimmed, those that are off sparsified, backups
punched; each only in its way, over its threshold, in its window. Looks at everything first, then acts within the limits of
the whole run, and ends with one summary. A mistake in the policy ends it before anything is done, with its place. What one run
leaves undone the next one does: it may be killed at any time. Two runs of one job at once: the second is refused.

options:
      --job JOB       only this: trim, sparsify or punch (default: all three). punch needs libvirt only where the policy
                      allows the way 'punch'
      --wait TIME     wait for windows that open within TIME, and do then what is left for them; what timers do, with a day
      --emergency     a storage is full, or nearly: windows, thresholds, rates and the time of the run do not count. First what
                      is off, then backups, then what runs; of each the fullest storage first. What the policy leaves out
                      stays left out, and a job that another run has is left to that
      --resume        let domains run on that an I/O error has paused, once there is room; with --emergency, at its end
      --config FILE   the policy (VIRT_RECLAIM_CONFIG; default /etc/virt-reclaim/config.toml); conf.d/*.toml beside it
                      are read after it
  -n, --dry-run       show what would be done, what is expected of it, and what is left out, and why
      --json          machine-readable output

exit status: 0 done, 1 error, 2 wrong usage or a mistake in the policy, 3 some failed, 4 done but the host got nothing
             back, 5 another run has the job, 130 interrupted
)";

constexpr absl::string_view kConfig = R"(usage: virt-reclaim config check [OPTIONS]
       virt-reclaim config show [OPTIONS] [DOMAIN...]

check looks for mistakes in the policy (virt-reclaim-config(5)): the first one in a line with file, line and column. show
prints every value and where it was said: in which file, built in, or in the metadata of the domain. With DOMAIN only what
counts for that domain, after all rules that fit.

options:
      --config FILE   the policy (VIRT_RECLAIM_CONFIG; default /etc/virt-reclaim/config.toml); conf.d/*.toml beside it
                      are read after it
      --json          machine-readable output

exit status: 0 no mistake, 1 error, 2 wrong usage or a mistake in the policy, 130 interrupted
)";

constexpr absl::string_view kCompletion = R"(usage: virt-reclaim completion bash|zsh|fish

Prints the shell's completion of virt-reclaim's verbs, options and domains. Packages bring it along; else for bash

  virt-reclaim completion bash >~/.local/share/bash-completion/completions/virt-reclaim

exit status: 0 done, 2 wrong usage
)";

}  // namespace

absl::string_view HelpText(absl::string_view verb) {
  if (verb == "report") return kReport;
  if (verb == "explain") return kExplain;
  if (verb == "trim") return kTrim;
  if (verb == "migrate") return kMigrate;
  if (verb == "agent") return kAgent;
  if (verb == "punch") return kPunch;
  if (verb == "sync") return kSync;
  if (verb == "sparsify") return kSparsify;
  if (verb == "run") return kRun;
  if (verb == "config") return kConfig;
  if (verb == "completion") return kCompletion;
  if (verb == "metrics") return kMetrics;
  return kProgram;
}

}  // namespace virt_reclaim
