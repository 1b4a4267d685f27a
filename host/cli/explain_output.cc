#include "host/cli/explain_output.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/escape.h"
#include "host/cli/hints.h"
#include "host/cli/json_parts.h"
#include "host/cli/outcome_output.h"
#include "host/cli/text_table.h"

namespace virt_reclaim {
namespace {

std::optional<std::string> FixOf(const ExplainedDomain& domain, const ExplainedDisk& disk,
                                 const std::string& connect) {
  if (!disk.culprit) return std::nullopt;
  return FixFor(disk.culprit->blocker, {connect, domain.summary.name}, disk.chain.target);
}

std::string LayersText(const DiscardChain& chain) {
  TextTable table;
  for (absl::string_view title : {"LAYER", "VERDICT", "NAME", "DETAIL"}) table.AddColumn(title);
  for (const Layer& layer : chain.layers) {
    std::string detail = Printable(layer.detail);
    const std::string codes = ReasonCodes(layer.reasons);
    const std::string notes = ReasonCodes(layer.remarks);
    if (!codes.empty()) absl::StrAppend(&detail, detail.empty() ? "" : "; ", codes);
    if (!notes.empty()) absl::StrAppend(&detail, detail.empty() ? "" : "; ", "note: ", notes);
    table.AddRow({std::string(Name(layer.kind)), std::string(Name(layer.verdict)),
                  Printable(layer.name), std::move(detail)});
  }
  return table.Render();
}

std::string ProbeText(const ProbedDisk& probe) {
  const std::string detail = probe.detail.empty() ? "" : absl::StrCat(": ", probe.detail);
  if (!probe.reaches) return absl::StrCat("could not be told", detail);
  return *probe.reaches ? "discards reach the host"
                        : absl::StrCat("they do not reach the host", detail);
}

// `disk`: of the disk that the file is on.
std::string ProbeText(const ProbedFile& probe, const ProbedDisk& disk) {
  const std::string holders = Printable(absl::StrJoin(probe.holders, ", "));
  const std::string detail = probe.detail.empty() ? "" : absl::StrCat(": ", probe.detail);
  if (!probe.reaches_holder) return absl::StrCat("could not be told", detail);
  if (probe.reaches_host == true)
    return absl::StrCat("discards reach the host, through ", holders, ", which holds its file");
  if (*probe.reaches_holder)
    return absl::StrCat("discards reach ", holders, ", which holds its file; the host gets nothing",
                        disk.reaches == true ? " until that is trimmed, too" : "");
  return absl::StrCat("they do not reach ", holders, ", which holds its file", detail);
}

std::string DiskText(const ExplainedDomain& domain, const ExplainedDisk& disk,
                     const std::string& connect) {
  std::string out = absl::StrCat(Printable(domain.summary.name), ":", Printable(disk.chain.target),
                                 "  ", disk.image.empty() ? "no image" : Printable(disk.image),
                                 "\n", LayersText(disk.chain));
  if (disk.probe) {
    absl::StrAppend(&out, "probe: ", ProbeText(*disk.probe), "\n");
    for (const ProbedFile& file : disk.probe->files) {
      absl::StrAppend(&out, "probe of ", Printable(file.mount_point), ": ",
                      ProbeText(file, *disk.probe), "\n");
    }
  }
  if (disk.culprit) {
    const std::string layer =
        disk.culprit->layer ? absl::StrCat(Name(*disk.culprit->layer), ", ") : "";
    absl::StrAppend(&out, "first culprit: ", layer, BlockerText(disk.culprit->blocker), "\n");
    if (const auto fix = FixOf(domain, disk, connect)) absl::StrAppend(&out, "fix: ", *fix, "\n");
  } else if (disk.chain.Verdict() == LayerVerdict::kOk) {
    absl::StrAppend(&out, "nothing stands in the way\n");
  } else {
    absl::StrAppend(&out, "no culprit is known\n");
  }
  return out;
}

Json LayerJson(const Layer& layer) {
  Json json = {{"layer", std::string(Name(layer.kind))},
               {"name", Text(layer.name)},
               {"verdict", std::string(Name(layer.verdict))},
               {"detail", Text(layer.detail)}};
  AddReasons(json, "reasons", layer.reasons);
  AddReasons(json, "remarks", layer.remarks);
  return json;
}

Json ProbedFileJson(const ProbedFile& file) {
  Json holders = Json::array();
  for (const std::string& holder : file.holders) holders.push_back(Text(holder));
  return {{"mount_point", Text(file.mount_point)},
          {"holders", std::move(holders)},
          {"discards_reach_holders", OrNull(file.reaches_holder)},
          {"discards_reach_host", OrNull(file.reaches_host)},
          {"detail", Text(file.detail)}};
}

Json DiskJson(const ExplainedDomain& domain, const ExplainedDisk& disk,
              const std::string& connect) {
  Json json = {{"target", Text(disk.chain.target)},
               {"image", Text(disk.image)},
               {"verdict", std::string(Name(disk.chain.Verdict()))}};
  json["layers"] = Json::array();
  for (const Layer& layer : disk.chain.layers) json["layers"].push_back(LayerJson(layer));
  json["first_culprit"] = nullptr;
  if (disk.culprit) {
    const Blocker& blocker = disk.culprit->blocker;
    const auto layer = disk.culprit->layer;
    const auto fix = FixOf(domain, disk, connect);
    json["first_culprit"] = {{"layer", layer ? Json(std::string(Name(*layer))) : Json(nullptr)},
                             {"verdict", std::string(Name(disk.culprit->verdict))},
                             {"code", std::string(Code(blocker.reason))},
                             {"text", std::string(Sentence(blocker.reason))},
                             {"detail", Text(blocker.detail)},
                             {"fix", fix ? Json(Text(*fix)) : Json(nullptr)}};
  }
  json["probe"] = nullptr;
  if (disk.probe) {
    json["probe"] = {{"discards_reach_host", OrNull(disk.probe->reaches)},
                     {"detail", Text(disk.probe->detail)},
                     {"files", Json::array()}};
    for (const ProbedFile& file : disk.probe->files)
      json["probe"]["files"].push_back(ProbedFileJson(file));
  }
  return json;
}

}  // namespace

std::string ExplainText(const std::vector<ExplainedDomain>& domains, const std::string& connect) {
  std::vector<std::string> parts;
  for (const ExplainedDomain& domain : domains) {
    for (const ExplainedDisk& disk : domain.disks) parts.push_back(DiskText(domain, disk, connect));
  }
  return absl::StrJoin(parts, "\n");
}

std::string ExplainJson(const std::vector<ExplainedDomain>& domains, const std::string& connect) {
  Json json = Document("explain");
  json["domains"] = Json::array();
  for (const ExplainedDomain& domain : domains) {
    Json entry = DomainJson(domain.summary);
    AddOutcome(entry, domain.outcome);
    entry["agent"] = domain.agent ? Json(std::string(Code(domain.agent->reason))) : Json(nullptr);
    AddReasons(entry, "remarks", domain.remarks);
    entry["disks"] = Json::array();
    for (const ExplainedDisk& disk : domain.disks)
      entry["disks"].push_back(DiskJson(domain, disk, connect));
    json["domains"].push_back(std::move(entry));
  }
  return Print(json);
}

std::string ReasonCodesText() {
  TextTable table;
  for (absl::string_view title : {"CODE", "IN A CHAIN", "MEANING"}) table.AddColumn(title);
  for (const ReasonText& reason : AllReasons()) {
    table.AddRow({std::string(reason.code), std::string(Name(reason.in_chain)),
                  std::string(reason.sentence)});
  }
  return table.Render();
}

std::string ReasonCodesJson() {
  Json json = Document("reason-codes");
  json["codes"] = Json::array();
  for (const ReasonText& reason : AllReasons()) {
    json["codes"].push_back({{"code", std::string(reason.code)},
                             {"text", std::string(reason.sentence)},
                             {"in_chain", std::string(Name(reason.in_chain))}});
  }
  return Print(json);
}

}  // namespace virt_reclaim
