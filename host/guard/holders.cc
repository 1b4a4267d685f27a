#include "host/guard/holders.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/escape.h"
#include "base/handle.h"
#include "base/io.h"
#include "base/mount_table.h"

namespace virt_reclaim {
namespace {

constexpr size_t kMaxProcFile = 16 << 20;  // /proc/locks of a large host
constexpr size_t kMaxNames = 8;            // a message, not a list
constexpr int kMaxGenerations = 16;        // from a libguestfs appliance's QEMU to us there are two

using Directory = Handle<DIR, closedir>;

// Names in a directory but "." and ".."; `error` is errno of opendir, 0 when it worked.
std::vector<std::string> Entries(const std::string& path, int& error) {
  std::vector<std::string> names;
  const Directory directory(opendir(path.c_str()));
  error = directory == nullptr ? errno : 0;
  if (directory == nullptr) return names;
  while (const dirent* entry = readdir(directory.get())) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  return names;
}

std::string FirstLine(const std::string& path) {
  auto content = ReadFile(path, 65536);
  if (!content.ok()) return "";
  return content->substr(0, content->find('\n'));
}

bool IsThis(const struct stat& status, const ImageIdentity& identity) {
  return SameImage(IdentityOf(status), identity);
}

std::string SysfsOf(dev_t device, const HolderRoots& roots) {
  return absl::StrCat(roots.sys, "/dev/block/", major(device), ":", minor(device));
}

std::optional<dev_t> DeviceNumber(const std::string& text) {
  unsigned int first = 0, second = 0;
  if (sscanf(text.c_str(), "%u:%u", &first, &second) != 2) return std::nullopt;
  return makedev(first, second);
}

// The devices whose data is this one's, too: the partitions of a disk, the disk of a partition.
std::set<dev_t> DevicesAround(dev_t device, const HolderRoots& roots) {
  const std::string directory = SysfsOf(device, roots);
  std::vector<std::string> around;
  if (access((directory + "/partition").c_str(), F_OK) == 0) around.push_back("..");
  int error = 0;
  for (const std::string& name : Entries(directory, error)) {
    if (access(absl::StrCat(directory, "/", name, "/partition").c_str(), F_OK) == 0)
      around.push_back(name);
  }
  std::set<dev_t> numbers;
  for (const std::string& name : around) {
    const auto number = DeviceNumber(FirstLine(absl::StrCat(directory, "/", name, "/dev")));
    if (number) numbers.insert(*number);
  }
  return numbers;
}

// By "flags:" in octal (proc_pid_fdinfo(5)); what cannot be read is as bad.
bool IsForWriting(const std::string& process, const std::string& fd) {
  const auto text = ReadFile(absl::StrCat(process, "/fdinfo/", fd), 65536);
  const size_t at = text.ok() ? text->find("flags:") : std::string::npos;
  if (at == std::string::npos) return true;
  return (strtoul(text->c_str() + at + strlen("flags:"), nullptr, 8) & O_ACCMODE) != O_RDONLY;
}

// Of a device also those who may write to a part of it, or to what it is a part of; with
// `only_writers` the others count as little here.
void AddProcesses(const ImageIdentity& identity, const HolderRoots& roots, bool only_writers,
                  const std::function<bool(pid_t)>& ours, Holders& holders) {
  std::set<dev_t> around;
  if (identity.block_device != 0) around = DevicesAround(identity.block_device, roots);
  int error = 0;
  const std::vector<std::string> pids = Entries(roots.proc, error);
  if (error != 0) holders.complete = false;
  for (const std::string& pid : pids) {
    int number = 0;
    if (!absl::SimpleAtoi(pid, &number) || number == getpid()) continue;
    const std::string process = absl::StrCat(roots.proc, "/", pid);
    const std::vector<std::string> fds = Entries(process + "/fd", error);
    if (error != 0 && error != ENOENT && error != ESRCH) holders.complete = false;
    const bool holds = std::any_of(fds.begin(), fds.end(), [&](const std::string& fd) {
      struct stat status;
      if (stat(absl::StrCat(process, "/fd/", fd).c_str(), &status) != 0) return false;
      const bool is_this = IsThis(status, identity);
      if (is_this && !only_writers) return true;
      return (is_this || (S_ISBLK(status.st_mode) && around.count(status.st_rdev) > 0)) &&
             IsForWriting(process, fd);
    });
    if (holds && (!ours || !ours(number))) {
      holders.names.push_back(
          absl::StrCat(Printable(FirstLine(process + "/comm")), " (pid ", pid, ")"));
    }
  }
}

void AddLoops(const ImageIdentity& identity, const HolderRoots& roots, Holders& holders) {
  int error = 0;
  for (const std::string& name : Entries(roots.sys + "/block", error)) {
    if (!absl::StartsWith(name, "loop")) continue;
    const std::string file =
        FirstLine(absl::StrCat(roots.sys, "/block/", name, "/loop/backing_file"));
    struct stat status;
    if (!file.empty() && stat(file.c_str(), &status) == 0 && IsThis(status, identity))
      holders.names.push_back("/dev/" + name);
  }
}

void AddMounts(const std::string& number, const HolderRoots& roots, Holders& holders) {
  const auto mounts = ReadMountTable(roots.proc + "/self/mountinfo");
  if (!mounts.ok()) return;
  for (const Mount& mount : *mounts) {
    if (mount.device == number)
      holders.names.push_back(absl::StrCat("mounted at '", Printable(mount.mount_point), "'"));
  }
}

// A device, and its partitions: what is built on them, and where they are mounted.
void AddDeviceUsers(const ImageIdentity& identity, const HolderRoots& roots, Holders& holders) {
  const std::string number =
      absl::StrCat(major(identity.block_device), ":", minor(identity.block_device));
  const std::string device = SysfsOf(identity.block_device, roots);
  int error = 0;
  for (const std::string& name : Entries(device + "/holders", error))
    holders.names.push_back("/dev/" + name);
  AddMounts(number, roots, holders);
  for (const std::string& part : Entries(device, error)) {
    const std::string directory = absl::StrCat(device, "/", part);
    if (access((directory + "/partition").c_str(), F_OK) != 0) continue;
    for (const std::string& name : Entries(directory + "/holders", error))
      holders.names.push_back("/dev/" + name);
    AddMounts(FirstLine(directory + "/dev"), roots, holders);
  }
}

void AddSwap(const ImageIdentity& identity, const HolderRoots& roots, Holders& holders) {
  const auto table = ReadFile(roots.proc + "/swaps", kMaxProcFile);
  if (!table.ok()) return;
  for (const absl::string_view line : absl::StrSplit(*table, '\n')) {
    const std::string path(line.substr(0, line.find(' ')));
    struct stat status;
    if (absl::StartsWith(path, "/") && stat(path.c_str(), &status) == 0 && IsThis(status, identity))
      holders.names.emplace_back("swap space in use");
  }
}

// The device number of the filesystem `path` lies on, as /proc/locks prints it: the superblock's.
// st_dev is another one on btrfs, where each subvolume has its own.
std::optional<dev_t> FilesystemDevice(const std::string& path, const HolderRoots& roots) {
  struct statx facts;
  if (statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, STATX_MNT_ID, &facts) != 0 ||
      (facts.stx_mask & STATX_MNT_ID) == 0) {
    return std::nullopt;  // before Linux 5.8
  }
  const auto mounts = ReadMountTable(roots.proc + "/self/mountinfo");
  if (!mounts.ok()) return std::nullopt;
  const auto mount = std::find_if(mounts->begin(), mounts->end(),
                                  [&](const Mount& each) { return each.id == facts.stx_mnt_id; });
  if (mount == mounts->end()) return std::nullopt;
  return DeviceNumber(mount->device);
}

// Whether "fe:00:1234" of /proc/locks is the file, or may be when the filesystem's number is not
// known: then the inode's alone is compared.
bool MayBeThis(absl::string_view place, ino_t inode, std::optional<dev_t> filesystem) {
  const std::vector<std::string> parts = absl::StrSplit(place, ':');
  if (parts.size() != 3 || parts[2] != absl::StrCat(inode)) return false;
  return !filesystem || (strtoul(parts[0].c_str(), nullptr, 16) == major(*filesystem) &&
                         strtoul(parts[1].c_str(), nullptr, 16) == minor(*filesystem));
}

}  // namespace

std::string Holders::Describe() const {
  const size_t shown = std::min(names.size(), kMaxNames);
  std::string text =
      absl::StrJoin(names.begin(), names.begin() + static_cast<ptrdiff_t>(shown), ", ");
  if (shown < names.size()) absl::StrAppend(&text, " and ", names.size() - shown, " others");
  return text;
}

Holders FindHolders(const ImageIdentity& identity, const HolderRoots& roots,
                    const std::function<bool(pid_t)>& ours) {
  Holders holders;
  AddProcesses(identity, roots, false, ours, holders);
  AddLoops(identity, roots, holders);
  if (identity.block_device != 0) AddDeviceUsers(identity, roots, holders);
  AddSwap(identity, roots, holders);
  return holders;
}

Holders FindWriters(const ImageIdentity& identity, const HolderRoots& roots,
                    const std::function<bool(pid_t)>& ours) {
  Holders writers;
  AddProcesses(identity, roots, true, ours, writers);
  AddLoops(identity, roots, writers);
  return writers;
}

bool IsDescendant(pid_t pid, const HolderRoots& roots) {
  for (int generation = 0; generation < kMaxGenerations && pid > 1; ++generation) {
    // "4711 (a name) S 4710 ..." (proc_pid_stat(5)); the name may have anything in it
    const std::string line = FirstLine(absl::StrCat(roots.proc, "/", pid, "/stat"));
    const size_t name_end = line.rfind(')');
    pid_t parent = 0;
    if (name_end == std::string::npos ||
        sscanf(line.c_str() + name_end, ") %*c %d", &parent) != 1) {
      return false;
    }
    if (parent == getpid()) return true;
    pid = parent;
  }
  return false;
}

bool HasLease(const std::string& path, const ImageIdentity& identity, const HolderRoots& roots) {
  const auto table = ReadFile(roots.proc + "/locks", kMaxProcFile);
  if (!table.ok()) return false;
  // "1: LEASE  ACTIVE    WRITE 4711 fe:00:1234 0 EOF" (fs/locks.c, lock_get_status)
  const std::string own = absl::StrCat(getpid());
  std::vector<std::string> places;
  for (const absl::string_view line : absl::StrSplit(*table, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.size() < 6 || words[1] != "LEASE" || words[4] == own) continue;
    for (size_t i = 4; i < words.size(); ++i) places.emplace_back(words[i]);
  }
  const auto is_this = [&](std::optional<dev_t> filesystem) {
    return std::any_of(places.begin(), places.end(), [&](const std::string& place) {
      return MayBeThis(place, identity.inode, filesystem);
    });
  };
  return is_this(std::nullopt) && is_this(FilesystemDevice(path, roots));
}

}  // namespace virt_reclaim
