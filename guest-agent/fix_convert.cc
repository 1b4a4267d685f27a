// ToProto of what a migration changes and proves (convert.h): every list within the contract's
// bound, every text valid UTF-8, the whole below a message's limit.
#include <algorithm>

#include "base/utf8.h"
#include "guest-agent/convert.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kMaxOutputBytes = 4096;

static_assert(static_cast<int>(FixAction::kPlan) == v1::FIX_ACTION_PLAN);
static_assert(static_cast<int>(FixAction::kApply) == v1::FIX_ACTION_APPLY);
static_assert(static_cast<int>(FixAction::kUndo) == v1::FIX_ACTION_UNDO);
static_assert(static_cast<int>(FixResult::kNothingToDo) == v1::FIX_RESULT_NOTHING_TO_DO);
static_assert(static_cast<int>(FixResult::kDone) == v1::FIX_RESULT_DONE);
static_assert(static_cast<int>(FixResult::kFailed) == v1::FIX_RESULT_FAILED);

}  // namespace

void ToProto(const Marker& marker, v1::WriteMarkerResponse& out) {
  out.set_id(marker.id);
  out.set_size_bytes(marker.size_bytes);
  out.set_extents_known(marker.extents_known);
  for (const MarkerExtent& extent : marker.extents) {
    v1::MarkerExtent& message = *out.add_extents();
    message.set_offset_bytes(extent.offset_bytes);
    message.set_length_bytes(extent.length_bytes);
  }
  out.set_device(ProtoName(marker.device));
  out.set_disk(ProtoName(marker.disk));
  out.set_start_bytes(marker.start_bytes);
}

void ToProto(const FreeMap& map, v1::ReadFreeMapResponse& out) {
  constexpr uint64_t kWireSector = 512;
  out.set_disk(ProtoName(map.disk));
  out.set_left_out_bytes(map.free.left_out_bytes);
  uint64_t end = 0;  // sectors
  for (const FreeRun& run : map.free.runs) {
    const uint64_t begin = run.offset_bytes / kWireSector;
    out.add_gap_sectors(begin - end);
    out.add_length_sectors(run.length_bytes / kWireSector);
    end = begin + run.length_bytes / kWireSector;
  }
}

void ToProto(const FixReport& report, v1::FixGuestResponse& out) {
  out.set_result(static_cast<v1::FixResult>(report.result));
  ResponseRoom room;
  for (const FileChange& change : report.changes) {
    v1::FixedFile message;
    message.set_path(ProtoPath(change.path));
    message.set_backup(ProtoPath(change.backup));
    for (const FixedLine& line : change.lines) {
      if (message.lines_size() == int{kMaxPreflightEntries}) break;
      v1::FixedLine& fixed = *message.add_lines();
      fixed.set_line(line.line);
      fixed.set_before(ProtoLine(line.before));
      fixed.set_after(ProtoLine(line.after));
    }
    if (!room.Has(message)) message.clear_lines();
    if (out.files_size() < int{kMaxPreflightEntries}) *out.add_files() = std::move(message);
  }
  for (const FixCommand& command : report.commands) {
    v1::FixCommand& message = *out.add_commands();
    for (const std::string& argument : command.arguments)
      message.add_arguments(ProtoPath(argument));
    message.set_exit_status(command.exit_status);
    message.set_output(Utf8(command.output, kMaxOutputBytes));
  }
  for (const std::string& refusal : report.refusals) {
    if (out.refusals_size() < int{kMaxPreflightEntries} / 4) out.add_refusals(ProtoLine(refusal));
  }
}

}  // namespace virt_reclaim::agent
