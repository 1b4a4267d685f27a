#include "host/cli/json_output.h"

#include "absl/strings/str_cat.h"
#include "base/saturating_add.h"
#include "host/cli/json_parts.h"
#include "host/cli/outcome_output.h"

namespace virt_reclaim {
namespace {

Json DiskJson(const ReportedDisk& disk) {
  const DiskFacts& facts = disk.facts;
  Json json = {
      {"target", Text(facts.xml.target)},
      {"bus", Text(facts.xml.bus)},
      {"device", Text(facts.xml.device)},
      {"image", Text(facts.xml.source.path)},
      {"format", Text(facts.xml.source.format)},
      {"capacity_bytes", OrNull(facts.usage.capacity)},
      {"allocation_bytes", OrNull(facts.usage.allocation)},
      {"physical_bytes", OrNull(facts.usage.physical)},
      {"guest_used_bytes", facts.guest ? Json(facts.guest->used) : Json(nullptr)},
      {"guest_free_bytes", facts.guest ? Json(facts.guest->free) : Json(nullptr)},
      {"reclaimable_bytes", OrNull(disk.assessment.reclaimable)},
      {"reclaimable_is", disk.assessment.from == ReclaimableFrom::kFreeMap ? "exact" : "estimate"},
      {"reclaimable_from",
       disk.assessment.reclaimable ? Json(Name(disk.assessment.from)) : Json(nullptr)},
      {"grown_since_trim_bytes", OrNull(disk.grown_since_trim)}};
  AddReasons(json, "blockers", disk.assessment.blockers);
  Json chain = Json::array();
  for (const ImageFile& file : facts.chain) {
    chain.push_back({{"path", Text(file.path)},
                     {"format", Text(file.format)},
                     {"data_file", file.data ? Json(Text(file.data->path)) : Json(nullptr)},
                     {"allocation_bytes", OrNull(file.usage.allocation)}});
  }
  json["chain"] = std::move(chain);
  return json;
}

Json LastTrimJson(const std::optional<TrimRecord>& trim) {
  if (!trim) return nullptr;
  return {{"began", absl::FormatTime(absl::RFC3339_sec, trim->began, absl::UTCTimeZone())},
          {"seconds", absl::ToDoubleSeconds(trim->took)},
          {"way", Text(trim->way)},
          {"status", Text(trim->status)},
          {"expected_bytes", OrNull(trim->expected)},
          {"trimmed_bytes", trim->trimmed},
          {"freed_bytes", OrNull(trim->freed)}};
}

absl::string_view Name(GuestTrimResult result) {
  switch (result) {
    case GuestTrimResult::kDone:
      return "done";
    case GuestTrimResult::kSkipped:
      return "skipped";
    case GuestTrimResult::kFailed:
      return "failed";
    case GuestTrimResult::kCancelled:
      return "cancelled";
    case GuestTrimResult::kUnknown:
      break;
  }
  return "unknown";
}

// The agent's own words (guest-agent/obstacle.cc).
Json ObstacleJson(GuestObstacle obstacle) {
  switch (obstacle) {
    case GuestObstacle::kReadOnly:
      return "read-only";
    case GuestObstacle::kNoDevice:
      return "no-device";
    case GuestObstacle::kNetwork:
      return "network";
    case GuestObstacle::kLoop:
      return "loop";
    case GuestObstacle::kAutofs:
      return "autofs";
    case GuestObstacle::kTypeNotSupported:
      return "type-not-supported";
    case GuestObstacle::kDiskNotSupported:
      return "disk-not-supported";
    case GuestObstacle::kDmCrypt:
      return "dm-crypt";
    case GuestObstacle::kLayerNotSupported:
      return "layer-not-supported";
    case GuestObstacle::kPartial:
      return "partial";
    case GuestObstacle::kNone:
    case GuestObstacle::kUnknown:
      break;
  }
  return nullptr;
}

Json FilesystemJson(const GuestTrim& trim) {
  Json disks = Json::array();
  for (const std::string& disk : trim.disks) disks.push_back(Text(disk));
  return {
      {"mount_point", Text(trim.mount_point)},    {"source", Text(trim.source)},
      {"status", std::string(Name(trim.result))}, {"trimmed_bytes", trim.trimmed},
      {"error", Text(trim.error_name)},           {"obstacle", ObstacleJson(trim.obstacle)},
      {"guest_disks", std::move(disks)},          {"seconds", absl::ToDoubleSeconds(trim.elapsed)}};
}

Json TrimmedJson(const TrimmedDomain& domain) {
  Json json = DomainJson(domain.domain);
  AddOutcome(json, domain.outcome);
  json["way"] = domain.way ? Json(std::string(Name(*domain.way))) : Json(nullptr);
  json["pace"] = nullptr;
  if (domain.pace) {
    json["pace"] = {
        {"chunk_bytes", domain.pace->chunk},
        {"pause_percent", domain.pace->pause_percent},
        {"punch_seconds_per_mib",
         domain.punch_cost ? Json(absl::ToDoubleSeconds(*domain.punch_cost)) : Json(nullptr)}};
  }
  json["seconds"] = absl::ToDoubleSeconds(domain.took);
  json["expected_bytes"] = OrNull(domain.expected);
  json["trimmed_bytes"] = domain.trimmed;
  json["freed_bytes"] = OrNull(domain.freed);
  json["disks"] = Json::array();
  for (const TrimmedDisk& disk : domain.disks) {
    Json entry = {{"target", Text(disk.target)},
                  {"image", Text(disk.image)},
                  {"trimmed_bytes", OrNull(disk.trimmed)},
                  {"guest_not_supported", disk.guest_not_supported},
                  {"freed_bytes", OrNull(disk.freed)},
                  {"allocation_before_bytes", OrNull(disk.allocation_before)},
                  {"allocation_after_bytes", OrNull(disk.allocation_after)}};
    AddReasons(entry, "reasons", disk.reasons);
    json["disks"].push_back(std::move(entry));
  }
  json["filesystems"] = Json::array();
  for (const GuestTrim& trim : domain.filesystems)
    json["filesystems"].push_back(FilesystemJson(trim));
  return json;
}

Json ChangesJson(const std::vector<xml::Change>& changes) {
  Json list = Json::array();
  for (const xml::Change& change : changes) {
    list.push_back({{"target", Text(change.target)},
                    {"what", Text(change.what)},
                    {"before", change.before.empty() ? Json(nullptr) : Json(Text(change.before))},
                    {"after", Text(change.after)},
                    {"reason", Text(change.reason)}});
  }
  return list;
}

Json RefusalsJson(const std::vector<xml::Refusal>& refusals) {
  Json list = Json::array();
  for (const xml::Refusal& refusal : refusals) {
    list.push_back({{"target", Text(refusal.target)},
                    {"reason", Text(refusal.reason)},
                    {"detail", Text(refusal.detail)}});
  }
  return list;
}

Json CopiesJson(const UnfinishedCopies& copies) {
  Json json = {{"paths", Json::array()}, {"unknown", Json::array()}};
  for (const std::string& path : copies.paths) json["paths"].push_back(Text(path));
  for (const std::string& why : copies.unknown) json["unknown"].push_back(why);
  return json;
}

}  // namespace

std::string ReportJson(const Report& report, const std::optional<CheckResult>& check) {
  Json json = Document("report");
  if (check) {
    json["check"] = {{"level", std::string(Name(check->level))},
                     {"text", check->text},
                     {"performance_data", check->performance_data}};
  }
  const ReportTotal& total = report.total;
  json["total"] = {{"disks", total.disks},
                   {"capacity_bytes", total.capacity},
                   {"allocation_bytes", total.allocation},
                   {"disks_with_guest", total.disks_with_guest},
                   {"guest_used_bytes", total.guest_used},
                   {"reclaimable_bytes", total.reclaimable}};
  json["domains"] = Json::array();
  for (const ReportedDomain& domain : report.domains) {
    Json entry = DomainJson(domain.summary);
    AddOutcome(entry, domain.outcome);
    entry["agent"] = domain.agent ? Json(std::string(Code(domain.agent->reason))) : Json(nullptr);
    entry["last_trim"] = LastTrimJson(domain.last_trim);
    entry["disks"] = Json::array();
    for (const ReportedDisk& disk : domain.disks) entry["disks"].push_back(DiskJson(disk));
    json["domains"].push_back(std::move(entry));
  }
  json["unfinished_copies"] = nullptr;
  if (report.copies) json["unfinished_copies"] = CopiesJson(*report.copies);
  return Print(json);
}

std::string TrimPlanJson(const std::vector<TrimAction>& plan) {
  Json json = Document("trim-plan");
  json["domains"] = Json::array();
  for (const TrimAction& action : plan) {
    Json entry = DomainJson(action.domain);
    entry["action"] = action.error.ok() && action.blockers.empty() ? "trim" : "skip";
    entry["way"] = action.way ? Json(std::string(Name(*action.way))) : Json(nullptr);
    entry["expected_bytes"] = OrNull(action.expected);
    entry["last_trim"] = LastTrimJson(action.last);
    if (!action.error.ok()) entry["error"] = Text(action.error.message());
    AddReasons(entry, "reasons", action.blockers);
    json["domains"].push_back(std::move(entry));
  }
  return Print(json);
}

std::string TrimJson(const std::vector<TrimmedDomain>& domains) {
  Json json = Document("trim");
  uint64_t trimmed = 0;
  int64_t freed = 0;
  Json list = Json::array();
  for (const TrimmedDomain& domain : domains) {
    trimmed = SaturatingAdd(trimmed, domain.trimmed);
    freed += domain.freed.value_or(0);
    list.push_back(TrimmedJson(domain));
  }
  json["total"] = {{"trimmed_bytes", trimmed}, {"freed_bytes", freed}};
  json["domains"] = std::move(list);
  return Print(json);
}

std::string MigratePlanJson(const std::vector<MigrateAction>& plan, bool diff) {
  Json json = Document("migrate-plan");
  json["domains"] = Json::array();
  for (const MigrateAction& action : plan) {
    Json entry = DomainJson(action.domain);
    if (!action.error.ok()) entry["error"] = Text(action.error.message());
    AddReasons(entry, "blockers", action.blockers);
    AddReasons(entry, "risks", action.risks);
    AddReasons(entry, "fixes", action.fixes);
    entry["changes"] = ChangesJson(action.changes);
    entry["refusals"] = RefusalsJson(action.refusals);
    entry["warnings"] = RefusalsJson(action.warnings);
    entry["needs_power_cycle"] = NeedsPowerCycle(action);
    entry["power_cycle_pending"] = action.power_cycle_pending;
    entry["goes_on"] = action.goes_on;
    if (diff && !action.changes.empty()) {
      // Its line ends stay; every other control character is made printable by the JSON writer.
      entry["diff"] = xml::UnifiedDiff(action.before, action.after, "now", "migrated");
    }
    json["domains"].push_back(std::move(entry));
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string MigratedJson(const std::string& verb, const std::vector<MigratedDomain>& domains) {
  Json json = Document(absl::StrCat("migrate-", verb));
  json["domains"] = Json::array();
  for (const MigratedDomain& domain : domains) {
    Json entry = DomainJson(domain.domain);
    AddOutcome(entry, domain.outcome);
    entry["changes"] = ChangesJson(domain.changes);
    entry["needs_power_cycle"] = domain.needs_power_cycle;
    entry["backup"] = domain.backup.empty() ? Json(nullptr) : Json(Text(domain.backup));
    for (const ProbedDisk& disk : domain.probed) {
      entry["probed_disks"].push_back(
          {{"target", Text(disk.target)},
           {"discards_reach_host", disk.reaches ? Json(*disk.reaches) : Json(nullptr)},
           {"detail", Text(disk.detail)}});
    }
    entry["migration"] = nullptr;
    if (domain.place) {
      entry["migration"] = {
          {"step", std::string(Name(domain.place->step))},
          {"since", absl::FormatTime(absl::RFC3339_sec, domain.place->since, absl::UTCTimeZone())},
          {"over", IsOver(domain.place->step)},
          {"detail", Text(domain.place->detail)}};
    }
    json["domains"].push_back(std::move(entry));
  }
  return Print(json);
}

std::string AgentStatusJson(const std::vector<AgentStatusOfDomain>& statuses) {
  Json json = Document("agent-status");
  json["domains"] = Json::array();
  for (const AgentStatusOfDomain& status : statuses) {
    Json entry = DomainJson(status.summary);
    AddOutcome(entry, status.outcome);
    if (status.blocker) AddReasons(entry, "reasons", {*status.blocker});
    entry["agent"] = nullptr;
    if (status.agent) {
      std::optional<double> age;
      if (status.agent->agent_uptime) age = absl::ToDoubleSeconds(*status.agent->agent_uptime);
      entry["agent"] = {{"version", status.agent->agent_version},
                        {"kernel", status.agent->kernel_release},
                        {"boot_id", status.agent->boot_id},
                        {"system", status.agent->os_name},
                        {"uptime_seconds", absl::ToDoubleSeconds(status.agent->uptime)},
                        {"age_seconds", OrNull(age)},
                        {"older_than_host", OrNull(status.older)}};
    }
    json["domains"].push_back(std::move(entry));
  }
  return Print(json);
}

std::string ErrorJson(const absl::Status& status, ExitStatus exit_status) {
  Json json = Document("error");
  json["error"] = Text(status.message());
  json["exit_status"] = static_cast<int>(exit_status);
  return Print(json);
}

}  // namespace virt_reclaim
