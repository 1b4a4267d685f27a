#include "host/services/plan_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/io.h"
#include "base/status.h"
#include "xml-tools/policies.h"

namespace virt_reclaim {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int kPlanVersion = 1;
constexpr char kMessageType[] = "migrate-plan-file";
constexpr size_t kMaxPlanBytes = size_t{64} << 20;  // 100,000 domains
constexpr size_t kDigestLength = 64;                // SHA-256 in hex

OrderedJson DomainJson(const PlannedDomain& domain) {
  OrderedJson images = OrderedJson::array();
  for (const PlannedImage& image : domain.images) {
    OrderedJson one = {{"target", image.target}, {"path", image.path}};
    if (image.number != 0) {
      one["device_number"] = image.number;
      one["size_bytes"] = image.size;
    } else {
      one["device"] = image.device;
      one["inode"] = image.inode;
    }
    images.push_back(std::move(one));
  }
  return {{"name", domain.name},
          {"uuid", domain.uuid},
          {"before_sha256", domain.before_digest},
          {"after_sha256", domain.after_digest},
          {"images", std::move(images)}};
}

// Takes values out of a JSON object; the first one that is not what it must be is the error.
class Taker {
 public:
  explicit Taker(const OrderedJson& object) : object_(object) {}

  std::string Text(const char* key) {
    const OrderedJson* value = Find(key);
    if (value != nullptr && value->is_string()) return value->get<std::string>();
    Fail(key, "a text");
    return "";
  }
  uint64_t Number(const char* key) {
    const OrderedJson* value = Find(key);
    if (value != nullptr && value->is_number_unsigned()) return value->get<uint64_t>();
    Fail(key, "a number");
    return 0;
  }
  bool Flag(const char* key) {
    const OrderedJson* value = Find(key);
    if (value != nullptr && value->is_boolean()) return value->get<bool>();
    Fail(key, "true or false");
    return false;
  }
  const OrderedJson& List(const char* key) {
    static const OrderedJson kEmpty = OrderedJson::array();
    const OrderedJson* value = Find(key);
    if (value != nullptr && value->is_array()) return *value;
    Fail(key, "a list");
    return kEmpty;
  }
  const OrderedJson& Object(const char* key) {
    static const OrderedJson kEmpty = OrderedJson::object();
    const OrderedJson* value = Find(key);
    if (value != nullptr && value->is_object()) return *value;
    Fail(key, "an object");
    return kEmpty;
  }
  std::string DigestText(const char* key) {
    std::string text = Text(key);
    const bool good =
        text.size() == kDigestLength && std::all_of(text.begin(), text.end(), [](char c) {
          return absl::ascii_isxdigit(static_cast<unsigned char>(c));
        });
    if (!good) Fail(key, "a SHA-256");
    return text;
  }
  const absl::Status& status() const { return status_; }

 private:
  const OrderedJson* Find(const char* key) const {
    const auto found = object_.is_object() ? object_.find(key) : object_.end();
    return found == object_.end() ? nullptr : &*found;
  }
  void Fail(const char* key, const char* what) {
    if (status_.ok())
      status_ = absl::InvalidArgumentError(absl::StrCat("'", key, "' is not ", what));
  }

  const OrderedJson& object_;
  absl::Status status_;
};

absl::StatusOr<PlannedImage> ImageOf(const OrderedJson& object) {
  Taker take(object);
  PlannedImage image;
  image.target = take.Text("target");
  image.path = take.Text("path");
  if (object.is_object() && object.contains("device_number")) {
    image.number = take.Number("device_number");
    image.size = take.Number("size_bytes");
  } else {
    image.device = take.Number("device");
    image.inode = take.Number("inode");
  }
  VR_RETURN_IF_ERROR(take.status());
  return image;
}

absl::StatusOr<PlannedDomain> DomainOf(const OrderedJson& object) {
  Taker take(object);
  PlannedDomain domain;
  domain.name = take.Text("name");
  domain.uuid = take.Text("uuid");
  domain.before_digest = take.DigestText("before_sha256");
  domain.after_digest = take.DigestText("after_sha256");
  for (const OrderedJson& one : take.List("images")) {
    VR_ASSIGN_OR_RETURN(PlannedImage image, ImageOf(one));
    domain.images.push_back(std::move(image));
  }
  VR_RETURN_IF_ERROR(take.status());
  return domain;
}

absl::StatusOr<PlanFile> PlanOf(const OrderedJson& object) {
  Taker take(object);
  if (take.Text("message_type") != kMessageType)
    return absl::InvalidArgumentError("it is no plan of 'virt-reclaim migrate plan --save'");
  if (take.Number("schema_version") != kPlanVersion)
    return absl::InvalidArgumentError("it was written by another version of virt-reclaim");
  PlanFile plan;
  plan.hypervisor = take.Text("hypervisor");
  if (const std::string time = take.Text("time");
      !absl::ParseTime(absl::RFC3339_full, time, &plan.time, nullptr)) {
    return absl::InvalidArgumentError("'time' is not a time");
  }
  for (const auto& [policy, word] : take.Object("policies").items()) {
    if (!word.is_string()) return absl::InvalidArgumentError("a policy is not a text");
    VR_RETURN_IF_ERROR(
        xml::SetPolicy(absl::StrCat("--", policy), word.get<std::string>(), plan.rewrite));
  }
  for (const OrderedJson& target : take.List("disks")) {
    if (!target.is_string()) return absl::InvalidArgumentError("a disk is not a text");
    plan.rewrite.targets.push_back(target.get<std::string>());
  }
  plan.fix_guest = take.Flag("fix_guest");
  plan.allow_thick = take.Flag("allow_thick");
  plan.assume = take.Flag("assume");
  for (const OrderedJson& one : take.List("domains")) {
    VR_ASSIGN_OR_RETURN(PlannedDomain domain, DomainOf(one));
    plan.domains.push_back(std::move(domain));
  }
  VR_RETURN_IF_ERROR(take.status());
  return plan;
}

}  // namespace

absl::Status WritePlanFile(const std::string& path, const PlanFile& plan) {
  OrderedJson json = {
      {"schema_version", kPlanVersion},
      {"message_type", kMessageType},
      {"hypervisor", plan.hypervisor},
      {"time", absl::FormatTime(absl::RFC3339_full, plan.time, absl::UTCTimeZone())},
      {"policies", OrderedJson::object()},
      {"disks", plan.rewrite.targets},
      {"fix_guest", plan.fix_guest},
      {"allow_thick", plan.allow_thick},
      {"assume", plan.assume},
      {"domains", OrderedJson::array()},
  };
  for (auto& [policy, word] : xml::PolicyWords(plan.rewrite)) json["policies"][policy] = word;
  for (const PlannedDomain& domain : plan.domains) json["domains"].push_back(DomainJson(domain));
  return WriteFileDurably(
      path, json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n", 0600);
}

absl::StatusOr<PlanFile> ReadPlanFile(const std::string& path) {
  VR_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxPlanBytes));
  const OrderedJson json = OrderedJson::parse(text, nullptr, /*allow_exceptions=*/false);
  auto plan = json.is_object()
                  ? PlanOf(json)
                  : absl::StatusOr<PlanFile>(absl::InvalidArgumentError("it is no JSON"));
  if (plan.ok()) return plan;
  return Annotate(plan.status(), absl::StrCat("plan '", Printable(path), "'"));
}

}  // namespace virt_reclaim
