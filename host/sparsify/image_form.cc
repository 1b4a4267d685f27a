#include "host/sparsify/image_form.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/sparsify/qemu_img.h"

namespace virt_reclaim::sparsify {
namespace {

using Json = nlohmann::json;

constexpr std::chrono::minutes kInfoLimit{1};
constexpr std::chrono::minutes kCheckLimit{10};  // reads all tables
constexpr uint64_t kUsualRefcountBits = 16;

// `name` of `json`, or nothing of that type.
template <typename T>
T Get(const Json& json, const char* name) {
  if (!json.is_object()) return {};
  const auto found = json.find(name);
  if (found == json.end()) return {};
  if constexpr (std::is_same_v<T, std::string>) {
    return found->is_string() ? found->template get<T>() : T{};
  } else if constexpr (std::is_same_v<T, bool>) {
    return found->is_boolean() && found->template get<T>();
  } else if constexpr (std::is_same_v<T, uint64_t>) {
    return found->is_number_unsigned() ? found->template get<T>() : T{};
  } else {
    return *found;
  }
}

void AddBitmaps(const Json& data, ImageForm& form) {
  for (const Json& json : Get<Json>(data, "bitmaps")) {
    if (Get<std::string>(json, "name").empty()) continue;
    ImageBitmap bitmap = {Get<std::string>(json, "name"), Get<uint64_t>(json, "granularity"),
                          false};
    const Json flags = Get<Json>(json, "flags");
    const auto has = [&](const char* flag) {
      return std::find(flags.begin(), flags.end(), Json(flag)) != flags.end();
    };
    bitmap.enabled = has("auto");
    if (has("in-use")) {
      form.lost.push_back(absl::StrCat("bitmap '", Printable(bitmap.name), "' (inconsistent)"));
    } else {
      form.bitmaps.push_back(std::move(bitmap));
    }
  }
}

void AddCompression(const Json& check, ImageForm& form) {
  if (!check.is_object()) {
    form.some_compression = "compression (not known whether it has any: qemu-img check failed)";
    return;
  }
  const auto compressed = Get<uint64_t>(check, "compressed-clusters");
  const auto allocated = Get<uint64_t>(check, "allocated-clusters");
  form.compressed = compressed > 0 && compressed >= allocated / 2;
  if (compressed > 0 && !form.compressed) {
    form.some_compression =
        absl::StrCat("compression (of ", compressed, " of ", allocated, " clusters)");
  }
}

}  // namespace

absl::StatusOr<ImageForm> ParseImageForm(absl::string_view info, absl::string_view check) {
  const Json json = Json::parse(info, nullptr, /*allow_exceptions=*/false);
  if (Get<std::string>(json, "format") != "qcow2")
    return absl::InvalidArgumentError("qemu-img does not call it a qcow2 image");
  const Json data = Get<Json>(Get<Json>(json, "format-specific"), "data");
  ImageForm form;
  const auto compat = Get<std::string>(data, "compat");
  if (compat == "0.10" || compat == "1.1") form.options.push_back("compat=" + compat);
  if (const auto size = Get<uint64_t>(json, "cluster-size"); size > 0)
    form.options.push_back(absl::StrCat("cluster_size=", size));
  if (Get<bool>(data, "extended-l2")) form.options.emplace_back("extended_l2=on");
  if (Get<bool>(data, "lazy-refcounts")) form.options.emplace_back("lazy_refcounts=on");
  if (Get<std::string>(data, "compression-type") == "zstd")
    form.options.emplace_back("compression_type=zstd");
  const auto refcount_bits = Get<uint64_t>(data, "refcount-bits");
  if (refcount_bits > 0 && refcount_bits != kUsualRefcountBits)
    form.options.push_back(absl::StrCat("refcount_bits=", refcount_bits));
  AddCompression(Json::parse(check, nullptr, /*allow_exceptions=*/false), form);
  const size_t snapshots = Get<Json>(json, "snapshots").size();
  if (snapshots > 0)
    form.lost.push_back(
        absl::StrCat(snapshots, snapshots == 1 ? " internal snapshot" : " internal snapshots"));
  if (!Get<std::string>(json, "backing-filename").empty())
    form.lost.emplace_back("its backing file (the copy stands alone)");
  if (!Get<std::string>(data, "data-file").empty())
    form.lost.emplace_back("its external data file (the copy has the data itself)");
  if (Get<bool>(json, "encrypted")) form.lost.emplace_back("its encryption");
  AddBitmaps(data, form);
  if (form.compressed) form.only_qcow2.emplace_back("compression");
  for (const ImageBitmap& bitmap : form.bitmaps)
    form.only_qcow2.push_back(absl::StrCat("bitmap '", Printable(bitmap.name), "'"));
  return form;
}

absl::StatusOr<ImageForm> ReadImageForm(const std::string& path, const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::string info,
                      RunQemuImg({"info", "-f", "qcow2", "--output=json", path}, kInfoLimit, stop));
  // Its status tells of leaks and errors, which do not matter here.
  const auto check = TryQemuImg({"check", "-f", "qcow2", "--output=json", path}, kCheckLimit, stop);
  if (absl::IsCancelled(check.status())) return check.status();
  return ParseImageForm(info, check.ok() ? check->output : "");
}

}  // namespace virt_reclaim::sparsify
