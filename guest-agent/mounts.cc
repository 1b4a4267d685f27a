#include "guest-agent/mounts.h"

#include <fcntl.h>
#include <libmount/libmount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/handle.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace virt_reclaim::agent {
namespace {

// The file's bytes up to the last whole line within the limit.
absl::StatusOr<std::pair<std::string, bool>> ReadLines(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open '", path, "'"));
  std::string text;
  char buffer[16384];
  while (text.size() <= kMaxMountinfoBytes) {
    const ssize_t n = read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, absl::StrCat("read '", path, "'"));
    if (n == 0) return std::pair(std::move(text), false);
    text.append(buffer, static_cast<size_t>(n));
  }
  const size_t end = text.rfind('\n', kMaxMountinfoBytes - 1);
  text.resize(end == std::string::npos ? 0 : end + 1);
  return std::pair(std::move(text), true);
}

std::string OrEmpty(const char* text) { return text == nullptr ? "" : text; }

// mnt_table_parse_stream asks this what to do with a line it cannot parse: 1 = go on without it.
int SkipBadLine(libmnt_table* /*table*/, const char* /*file*/, int /*line*/) { return 1; }

Mount ToMount(libmnt_fs* fs) {
  Mount mount;
  mount.id = mnt_fs_get_id(fs);
  mount.parent_id = mnt_fs_get_parent_id(fs);
  mount.device = mnt_fs_get_devno(fs);
  mount.root = OrEmpty(mnt_fs_get_root(fs));
  mount.target = OrEmpty(mnt_fs_get_target(fs));
  mount.type = OrEmpty(mnt_fs_get_fstype(fs));
  mount.source = OrEmpty(mnt_fs_get_source(fs));
  // The superblock's options. The mount's own (vfs_options) do not hinder a trim, and under
  // systemd's ProtectSystem=strict all of them say "ro".
  char* value = nullptr;
  size_t size = 0;
  mount.options = OrEmpty(mnt_fs_get_fs_options(fs));
  mount.read_only = mnt_optstr_get_option(mount.options.c_str(), "ro", &value, &size) == 0;
  mount.pseudo = mnt_fs_is_pseudofs(fs) != 0;
  mount.network = mnt_fs_is_netfs(fs) != 0;
  return mount;
}

// Follows paths over the mounts as the kernel does, component by component.
class Resolver {
 public:
  explicit Resolver(const std::vector<Mount>& mounts) : mounts_(mounts) {
    for (size_t i = 0; i < mounts.size(); ++i) by_id_.emplace(mounts[i].id, i);
    for (size_t i = 0; i < mounts.size(); ++i) {
      const Mount& mount = mounts[i];
      const bool top = mount.parent_id == mount.id || !by_id_.contains(mount.parent_id);
      if (top && mount.target == "/" && !root_) root_ = i;
      // Two mounts on the same place of the same parent cannot be: the second one lies on the
      // first.
      if (!top) children_.emplace(std::pair(mount.parent_id, mount.target), i);
    }
  }

  bool IsReachable(size_t index) const {
    if (!root_) return true;  // a table without '/': believe it
    size_t current = Cross(*root_, "/");
    const std::string& path = mounts_[index].target;
    for (size_t slash = path.find('/', 1); path != "/"; slash = path.find('/', slash + 1)) {
      current = Cross(current, path.substr(0, slash));
      if (slash == std::string::npos) break;
    }
    return current == index;
  }

 private:
  // The mount on top at `path`, coming from `current`.
  size_t Cross(size_t current, const std::string& path) const {
    // Each step goes from parent to child; the count is a guard against a table that claims a
    // cycle.
    for (size_t steps = 0; steps < mounts_.size(); ++steps) {
      const auto it = children_.find(std::pair(mounts_[current].id, path));
      if (it == children_.end()) break;
      current = it->second;
    }
    return current;
  }

  const std::vector<Mount>& mounts_;
  std::map<int, size_t> by_id_;
  std::map<std::pair<int, std::string>, size_t> children_;
  std::optional<size_t> root_;
};

}  // namespace

absl::StatusOr<MountTable> ReadMounts(const std::string& path) {
  VR_ASSIGN_OR_RETURN(auto lines, ReadLines(path));
  MountTable result;
  result.truncated = lines.second;
  if (lines.first.empty()) return result;
  Handle<FILE, fclose> stream(fmemopen(lines.first.data(), lines.first.size(), "r"));
  Handle<libmnt_table, mnt_unref_table> table(mnt_new_table());
  if (stream == nullptr || table == nullptr)
    return absl::ResourceExhaustedError("no memory for the mount table");
  mnt_table_set_parser_errcb(table.get(), SkipBadLine);
  if (const int rc = mnt_table_parse_stream(table.get(), stream.get(), path.c_str()); rc < 0) {
    return ErrnoStatus(-rc, absl::StrCat("parse '", path, "'"));
  }
  Handle<libmnt_iter, mnt_free_iter> iterator(mnt_new_iter(MNT_ITER_FORWARD));
  if (iterator == nullptr) return absl::ResourceExhaustedError("no memory for the mount table");
  for (libmnt_fs* fs = nullptr; mnt_table_next_fs(table.get(), iterator.get(), &fs) == 0;) {
    result.mounts.push_back(ToMount(fs));
  }
  const Resolver resolver(result.mounts);
  for (size_t i = 0; i < result.mounts.size(); ++i)
    result.mounts[i].reachable = resolver.IsReachable(i);
  return result;
}

std::string WholeRoot(const Mount& mount) {
  if (mount.root == "/") return mount.root;
  // btrfs tells for each mount which subvolume its directory is in.
  char* value = nullptr;
  size_t size = 0;
  const bool whole = mount.type == "btrfs" &&
                     mnt_optstr_get_option(mount.options.c_str(), "subvol", &value, &size) == 0 &&
                     absl::string_view(value, size) == mount.root;
  return whole ? mount.root : "";
}

std::vector<MountGroup> GroupByFilesystem(const MountTable& table) {
  // The superblock's device number names a filesystem: unique for what has a device, and one
  // anonymous 0:N for all subvolumes of a btrfs.
  std::map<dev_t, size_t> group_of;
  std::vector<MountGroup> groups;
  for (size_t i = 0; i < table.mounts.size(); ++i) {
    if (!table.mounts[i].reachable) continue;
    const auto [it, inserted] = group_of.emplace(table.mounts[i].device, groups.size());
    if (inserted) groups.emplace_back();
    groups[it->second].push_back(i);
  }
  for (MountGroup& group : groups) {
    std::stable_partition(group.begin(), group.end(),
                          [&](size_t i) { return table.mounts[i].root == "/"; });
  }
  return groups;
}

}  // namespace virt_reclaim::agent
