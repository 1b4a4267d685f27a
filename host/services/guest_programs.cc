#include "host/services/guest_programs.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/services/json_fields.h"
#include "host/services/qemu_agent_answer.h"

namespace virt_reclaim {
namespace {

using Json = nlohmann::json;

constexpr std::array kNeeded = {"guest-exec",       "guest-exec-status", "guest-file-close",
                                "guest-file-flush", "guest-file-open",   "guest-file-write"};
constexpr absl::Duration kCall = absl::Seconds(10);  // one command, that never has to wait
constexpr absl::Duration kClosing = absl::Seconds(10);
constexpr absl::Duration kClosingInterrupted = absl::Seconds(2);
// As base64 qemu-guest-agent reads it byte by byte: an emulated guest takes a second and more for
// four times as much, a real one some milliseconds.
constexpr size_t kPiece = size_t{48} << 10;
constexpr size_t kMaxCommands = 1024;  // qemu-guest-agent 9 has 45
constexpr size_t kMaxNameBytes = 64;
constexpr absl::Duration kFirstLook = absl::Milliseconds(50);
constexpr absl::Duration kLongestPause = absl::Milliseconds(500);

absl::Status Odd(absl::string_view command) {
  return absl::InternalError(absl::StrCat("qemu-guest-agent: an odd answer to ", command));
}

absl::StatusOr<int64_t> Whole(const Json& json, absl::string_view command) {
  if (!json.is_number_integer()) return Odd(command);
  return json.get<int64_t>();
}

const Json& Field(const Json& object, const char* key) {
  static const Json& none = *new Json();
  if (!object.is_object()) return none;
  const auto found = object.find(key);
  return found == object.end() ? none : *found;
}

std::string Decoded(const std::string& text) {
  std::string decoded;
  if (!absl::Base64Unescape(text, &decoded)) return "";
  decoded.resize(std::min(decoded.size(), kMaxGuestOutput));
  return decoded;
}

GuestProgramEnd EndOf(const Json& answer) {
  GuestProgramEnd end;
  const Json& status = Field(answer, "exitcode");
  if (status.is_number_unsigned() && status.get<uint64_t>() < 256)
    end.exit_status = static_cast<int>(status.get<uint64_t>());
  end.out = Decoded(TextField(answer, "out-data"));
  end.err = Decoded(TextField(answer, "err-data"));
  return end;
}

}  // namespace

GuestPrograms::GuestPrograms(Hypervisor& hypervisor, std::string uuid, Clock clock)
    : hypervisor_(hypervisor), uuid_(std::move(uuid)), clock_(std::move(clock)) {}

absl::StatusOr<Json> GuestPrograms::Ask(absl::string_view command, const Json& arguments,
                                        const std::stop_token& stop) {
  Json json = {{"execute", std::string(command)}};
  if (!arguments.is_null()) json["arguments"] = arguments;
  VR_ASSIGN_OR_RETURN(const std::string answer,
                      hypervisor_.QemuAgentCommand(uuid_, json.dump(), kCall, stop));
  return QemuAgentReturn(answer);
}

absl::StatusOr<std::vector<std::string>> GuestPrograms::Blocked(const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const Json info, Ask("guest-info", nullptr, stop));
  const Json& commands = Field(info, "supported_commands");
  if (!commands.is_array() || commands.size() > kMaxCommands) return Odd("guest-info");
  std::set<std::string> allowed;
  for (const Json& command : commands) {
    if (TrueField(command, "enabled")) allowed.insert(TextField(command, "name"));
  }
  std::vector<std::string> blocked;
  std::copy_if(kNeeded.begin(), kNeeded.end(), std::back_inserter(blocked),
               [&](const char* name) { return !allowed.contains(name); });
  return blocked;
}

std::string GuestPrograms::System(const std::stop_token& stop) {
  const auto info = Ask("guest-get-osinfo", nullptr, stop);
  if (!info.ok()) return "";
  return Printable(TextField(*info, "id"), kMaxNameBytes);
}

absl::Status GuestPrograms::WriteAll(int64_t handle, absl::string_view content, absl::Time deadline,
                                     const std::function<void(size_t)>& progress,
                                     const std::stop_token& stop) {
  for (size_t done = 0; done < content.size();) {
    if (stop.stop_requested()) return absl::CancelledError("interrupted");
    if (clock_.now() > deadline)
      return absl::DeadlineExceededError("qemu-guest-agent: writing the file takes too long");
    const absl::string_view piece = content.substr(done, kPiece);
    VR_ASSIGN_OR_RETURN(const Json answer,
                        Ask("guest-file-write",
                            {{"handle", handle}, {"buf-b64", absl::Base64Escape(piece)}}, stop));
    VR_ASSIGN_OR_RETURN(const int64_t count, Whole(Field(answer, "count"), "guest-file-write"));
    if (count <= 0 || static_cast<size_t>(count) > piece.size()) return Odd("guest-file-write");
    done += static_cast<size_t>(count);
    if (progress) progress(done);
  }
  // Else a full disk would be noticed by nobody.
  return Ask("guest-file-flush", {{"handle", handle}}, stop).status();
}

absl::Status GuestPrograms::WriteFile(const std::string& path, absl::string_view content,
                                      absl::Time deadline,
                                      const std::function<void(size_t)>& progress,
                                      const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const Json opened,
                      Ask("guest-file-open", {{"path", path}, {"mode", "w"}}, stop));
  VR_ASSIGN_OR_RETURN(const int64_t handle, Whole(opened, "guest-file-open"));
  const absl::Status written = WriteAll(handle, content, deadline, progress, stop);
  // Also after a stop: the agent would keep it open for ever.
  const Json close = {{"execute", "guest-file-close"}, {"arguments", {{"handle", handle}}}};
  const auto closed = hypervisor_.QemuAgentCommand(
      uuid_, close.dump(), stop.stop_requested() ? kClosingInterrupted : kClosing, {});
  VR_RETURN_IF_ERROR(written);
  if (!closed.ok()) return closed.status();
  return QemuAgentReturn(*closed).status();
}

absl::StatusOr<GuestProgramEnd> GuestPrograms::Run(const std::vector<std::string>& arguments,
                                                   absl::Duration limit,
                                                   const std::stop_token& stop) {
  const absl::Time deadline = clock_.now() + limit;
  VR_ASSIGN_OR_RETURN(
      const Json begun,
      Ask("guest-exec",
          {{"path", arguments.front()},
           {"arg", std::vector<std::string>(arguments.begin() + 1, arguments.end())},
           {"capture-output", true}},
          stop));
  VR_ASSIGN_OR_RETURN(const int64_t pid, Whole(Field(begun, "pid"), "guest-exec"));
  for (absl::Duration pause = kFirstLook;; pause = std::min(2 * pause, kLongestPause)) {
    VR_ASSIGN_OR_RETURN(const Json answer, Ask("guest-exec-status", {{"pid", pid}}, stop));
    const Json& exited = Field(answer, "exited");
    if (!exited.is_boolean()) return Odd("guest-exec-status");
    if (exited == true) return EndOf(answer);
    if (clock_.now() + pause > deadline)
      return absl::DeadlineExceededError(
          absl::StrCat("a program in the guest did not end in ", absl::FormatDuration(limit)));
    clock_.sleep(pause);
  }
}

}  // namespace virt_reclaim
