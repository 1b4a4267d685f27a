// The guest behind a fake domain's qemu-guest-agent, as far as files and programs go: a directory
// of this machine stands for its root. Files are written there, and what is started is really
// started, by this machine's shell, with the guest's paths replaced by those below the directory;
// systemctl and udevadm are scripts there that note that they were called.
#ifndef VIRT_RECLAIM_TESTS_FAKES_FAKE_GUEST_TREE_H_
#define VIRT_RECLAIM_TESTS_FAKES_FAKE_GUEST_TREE_H_

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/io.h"
#include "base/subprocess.h"

namespace virt_reclaim {

class FakeGuestTree {
 public:
  using Json = nlohmann::json;

  // `root` is made.
  explicit FakeGuestTree(std::string root) : root_(std::move(root)) {
    for (const char* directory : {"/bin", "/run", "/dev", "/etc", "/usr/sbin"})
      std::filesystem::create_directories(root_ + directory);
    Script("/bin/systemctl", "echo \"systemctl $*\" >>" + root_ + "/log\n" +
                                 "case $1 in is-active) [ -e " + root_ +
                                 "/run/active ];; restart) : >" + root_ + "/run/active;; esac\n");
    Script("/bin/udevadm", "echo \"udevadm $*\" >>" + root_ + "/log\n");
    Script("/bin/id", "echo " + std::string("0") + "\n");
    Script("/bin/dpkg-query", "cat " + root_ + "/packaged 2>/dev/null\n");
    Script("/bin/rpm", "exit 1\n");
    Script("/bin/restorecon", "exit 0\n");
    for (const char* command : {"guest-exec", "guest-exec-status", "guest-file-close",
                                "guest-file-flush", "guest-file-open", "guest-file-write"})
      commands[command] = true;
  }

  void HasSystemd() { std::filesystem::create_directories(root_ + "/run/systemd/system"); }
  void HasPort() {
    std::filesystem::create_directories(root_ + "/dev/virtio-ports");
    Write("/dev/virtio-ports/org.virt_reclaim.agent.v1", "");
  }
  void Script(const std::string& path, const std::string& text) {
    Write(path, "#!/bin/sh\n" + text);
    chmod((root_ + path).c_str(), 0755);
  }
  void Write(const std::string& path, const std::string& text) {
    std::ofstream(root_ + path, std::ios::binary) << text;
  }
  // What is there; empty: nothing.
  std::string Read(const std::string& path) const {
    return ReadFile(root_ + path, size_t{64} << 20).value_or("");
  }
  bool Has(const std::string& path) const { return std::filesystem::exists(root_ + path); }
  // Files that a run has left beside their places.
  size_t Leftovers() const {
    size_t count = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root_))
      count += absl::StrContains(entry.path().string(), "virt-reclaim-new") ? 1 : 0;
    return count;
  }

  absl::StatusOr<std::string> Answer(const std::string& text) {
    const Json command = Json::parse(text);
    const std::string name = command["execute"];
    if (const auto lie = lies.find(name); lie != lies.end()) return lie->second;
    const Json arguments = command.value("arguments", Json::object());
    if (name == "guest-info") return Info();
    if (name == "guest-get-osinfo") return Return({{"id", system}});
    if (name == "guest-file-open") {
      handles_[++last_] = arguments["path"];
      Write(arguments["path"], "");
      return Return(last_);
    }
    if (name == "guest-file-write") return WritePiece(arguments);
    if (name == "guest-file-flush") return Return(Json::object());
    if (name == "guest-file-close") {
      handles_.erase(arguments["handle"].get<int64_t>());
      return Return(Json::object());
    }
    if (name == "guest-exec") return Exec(arguments);
    if (name == "guest-exec-status") return Return(ends_.at(arguments["pid"].get<int64_t>()));
    return absl::InternalError("unable to execute QEMU agent command");
  }
  size_t open_files() const { return handles_.size(); }

  std::string system = "debian";
  std::map<std::string, bool> commands;     // whether each may be used
  std::map<std::string, std::string> lies;  // by command: what is answered in place of the truth
  size_t room = SIZE_MAX;                   // bytes that can be written
  size_t most_at_once = SIZE_MAX;           // of a write
  bool damages = false;                     // what is written
  std::function<void()> while_writing;

 private:
  static std::string Return(const Json& value) { return Json({{"return", value}}).dump(); }

  absl::StatusOr<std::string> Info() const {
    Json list = Json::array();
    for (const auto& [name, enabled] : commands)
      list.push_back({{"name", name}, {"enabled", enabled}, {"success-response", true}});
    return Return({{"version", "7.2.22"}, {"supported_commands", list}});
  }

  absl::StatusOr<std::string> WritePiece(const Json& arguments) {
    if (while_writing) while_writing();
    std::string bytes;
    absl::Base64Unescape(arguments["buf-b64"].get<std::string>(), &bytes);
    bytes.resize(std::min(bytes.size(), most_at_once));
    if (bytes.size() > room)
      return absl::InternalError("failed to write to file: No space left on device");
    room -= bytes.size();
    if (damages) bytes.front() ^= 1;
    std::ofstream(root_ + handles_.at(arguments["handle"].get<int64_t>()),
                  std::ios::binary | std::ios::app)
        << bytes;
    return Return({{"count", bytes.size()}, {"eof", false}});
  }

  std::string Moved(const std::string& text) const {
    return absl::StrReplaceAll(text,
                               {{"PATH=/usr/sbin:/usr/bin:", "PATH=" + root_ + "/bin:/usr/bin:"},
                                {"/usr/sbin/", root_ + "/usr/sbin/"},
                                {"/etc/", root_ + "/etc/"},
                                {"/run/systemd/", root_ + "/run/systemd/"},
                                {"/dev/virtio-ports/", root_ + "/dev/virtio-ports/"}});
  }

  absl::StatusOr<std::string> Exec(const Json& arguments) {
    std::vector<std::string> words = {arguments["path"]};
    for (const std::string word : arguments["arg"]) words.push_back(Moved(word));
    CommandLimits limits;
    limits.separate_errors = true;
    const auto result = RunCommand(words, limits);
    if (!result.ok()) return result.status();
    const auto back = [&](const std::string& text) {
      return absl::Base64Escape(absl::StrReplaceAll(text, {{root_, ""}}));
    };
    ends_[++last_] = {{"exited", true},
                      {"exitcode", result->exit_status},
                      {"out-data", back(result->output)},
                      {"err-data", back(result->errors)}};
    return Return({{"pid", last_}});
  }

  const std::string root_;
  int64_t last_ = 1000;
  std::map<int64_t, std::string> handles_;
  std::map<int64_t, Json> ends_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_FAKES_FAKE_GUEST_TREE_H_
