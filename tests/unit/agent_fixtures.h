// Trees of files that stand for /sys and /proc in the agent's unit tests. One thread.
#ifndef VIRT_RECLAIM_TESTS_UNIT_AGENT_FIXTURES_H_
#define VIRT_RECLAIM_TESTS_UNIT_AGENT_FIXTURES_H_

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace virt_reclaim::agent {

// A directory that goes with the object.
class TempTree {
 public:
  TempTree() {
    std::string name = (std::filesystem::temp_directory_path() / "agent-test.XXXXXX").string();
    path_ = mkdtemp(name.data()) == nullptr ? "" : name;
  }
  ~TempTree() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempTree(const TempTree&) = delete;
  TempTree& operator=(const TempTree&) = delete;

  const std::string& path() const { return path_; }
  std::string Write(const std::string& name, const std::string& content) const {
    const std::filesystem::path file = std::filesystem::path(path_) / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << content;
    return file.string();
  }
  void Link(const std::string& name, const std::string& target) const {
    const std::filesystem::path link = std::filesystem::path(path_) / name;
    std::filesystem::create_directories(link.parent_path());
    std::filesystem::create_symlink(std::filesystem::path(path_) / target, link);
  }

 private:
  std::string path_;
};

// A sysfs with the block devices a test asks for.
class FakeSysfs {
 public:
  const std::string& path() const { return tree_.path(); }
  const TempTree& tree() const { return tree_; }

  // A disk at devices/WHERE/block/NAME. `discard`: discard_max_bytes.
  void Disk(const std::string& name, const std::string& number, uint64_t discard,
            const std::string& where = "pci0000:00/0000:00:05.0/virtio2") {
    Device("devices/" + where + "/block/" + name, name, number, discard);
  }
  void Partition(const std::string& disk, const std::string& name, const std::string& number,
                 uint64_t start = 2048) {
    const std::string directory = directories_.at(disk) + "/" + name;
    directories_[name] = directory;
    tree_.Write(directory + "/dev", number + "\n");
    tree_.Write(directory + "/partition", "1\n");
    tree_.Write(directory + "/size", "2048\n");
    tree_.Write(directory + "/start", std::to_string(start) + "\n");
    tree_.Link("dev/block/" + number, directory);
  }
  void Mapper(const std::string& name, const std::string& number, uint64_t discard,
              const std::string& uuid, const std::vector<std::string>& slaves,
              const std::string& dm_name = "data") {
    Virtual(name, number, discard, slaves);
    Set(name, "dm/uuid", uuid + "\n");
    Set(name, "dm/name", dm_name + "\n");
  }
  void Raid(const std::string& name, const std::string& number, uint64_t discard,
            const std::vector<std::string>& slaves) {
    Virtual(name, number, discard, slaves);
    Set(name, "md/level", "raid1\n");
  }
  void Virtual(const std::string& name, const std::string& number, uint64_t discard,
               const std::vector<std::string>& slaves) {
    Device("devices/virtual/block/" + name, name, number, discard);
    std::filesystem::create_directories(std::filesystem::path(path()) / directories_.at(name) /
                                        "slaves");
    for (const std::string& slave : slaves) AddSlave(name, slave);
  }
  void AddSlave(const std::string& name, const std::string& slave) {
    tree_.Link(directories_.at(name) + "/slaves/" + slave, directories_.at(slave));
  }
  void Set(const std::string& name, const std::string& attribute, const std::string& content) {
    tree_.Write(directories_.at(name) + "/" + attribute, content);
  }
  const std::string& Directory(const std::string& name) const { return directories_.at(name); }

 private:
  void Device(const std::string& directory, const std::string& name, const std::string& number,
              uint64_t discard) {
    directories_[name] = directory;
    tree_.Write(directory + "/dev", number + "\n");
    tree_.Write(directory + "/size", "4194304\n");
    tree_.Write(directory + "/queue/discard_max_bytes", std::to_string(discard) + "\n");
    tree_.Write(directory + "/queue/discard_granularity", discard == 0 ? "0\n" : "512\n");
    tree_.Link("dev/block/" + number, directory);
  }

  TempTree tree_;
  std::map<std::string, std::string> directories_;
};

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_TESTS_UNIT_AGENT_FIXTURES_H_
