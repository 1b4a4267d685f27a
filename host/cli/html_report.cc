#include "host/cli/html_report.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/byte_size.h"
#include "base/escape.h"

namespace virt_reclaim {
namespace {

using absl::StrAppend;
using absl::StrCat;

constexpr double kSecondsOfDay = 86400;

std::string SizeText(const std::optional<uint64_t>& bytes) {
  return bytes ? FormatByteSize(*bytes) : "-";
}

// UTC: the page is read elsewhere, too.
std::string Day(absl::Time time) { return absl::FormatTime("%Y-%m-%d", time, absl::UTCTimeZone()); }

std::string Count(size_t count, absl::string_view one) {
  return StrCat(count, " ", one, count == 1 ? "" : "s");
}

// ---- Pictures.

struct Part {
  absl::string_view kind;  // a class of the style sheet
  uint64_t bytes = 0;
};

// A bar of `parts`; what is missing to `whole` stays empty. `words` says it to who cannot see it.
std::string Bar(const std::vector<Part>& parts, uint64_t whole, const std::string& words) {
  double sum = 0;
  for (const Part& part : parts) sum += static_cast<double>(part.bytes);
  const double scale = std::max({sum, static_cast<double>(whole), 1.0});
  std::string bar = StrCat("<div class=\"bar\" role=\"img\" aria-label=\"", HtmlText(words),
                           "\" title=\"", HtmlText(words), "\">");
  for (const Part& part : parts) {
    if (part.bytes == 0) continue;
    absl::StrAppendFormat(&bar, "<i class=\"%s\" style=\"width:%.2f%%\"></i>", part.kind,
                          100 * static_cast<double>(part.bytes) / scale);
  }
  return bar + "</div>";
}

// A line through the points, from the least value to the most; nothing of fewer than two.
std::string Line(const AllocationSeries& series, absl::string_view attributes) {
  constexpr double kWidth = 600;
  constexpr double kHeight = 100;
  constexpr double kEdge = 4;  // so that the stroke is not cut
  if (series.size() < 2) return "";
  const auto [least, most] = std::minmax_element(
      series.begin(), series.end(),
      [](const AllocationPoint& a, const AllocationPoint& b) { return a.bytes < b.bytes; });
  const absl::Duration span = series.back().at - series.front().at;
  const double range = static_cast<double>(most->bytes - least->bytes);
  const std::string words =
      StrCat("From ", FormatByteSize(series.front().bytes), " on ", Day(series.front().at), " to ",
             FormatByteSize(series.back().bytes), " on ", Day(series.back().at));
  std::string points;
  for (const AllocationPoint& point : series) {
    const double x = absl::FDivDuration(point.at - series.front().at, span) * kWidth;
    const double part = range > 0 ? static_cast<double>(point.bytes - least->bytes) / range : 0.5;
    absl::StrAppendFormat(&points, "%s%.1f,%.1f", points.empty() ? "" : " ", x,
                          kHeight - kEdge - part * (kHeight - 2 * kEdge));
  }
  return StrCat("<svg ", attributes,
                " viewBox=\"0 0 600 100\" preserveAspectRatio=\"none\" role=\"img\"",
                " aria-label=\"", words, "\"><polyline points=\"", points, "\"/></svg>");
}

// ---- Parts of the page.

std::string Tile(const std::string& value, absl::string_view words) {
  return StrCat("<div class=\"tile\"><b>", value, "</b>", words, "</div>\n");
}

std::string ReclaimableHtml(const OverviewDisk& disk) {
  return StrCat(disk.reclaimable && !disk.exact ? "~" : "", SizeText(disk.reclaimable));
}

size_t DisksWithExactMaps(const Overview& overview) {
  size_t count = 0;
  for (const OverviewDomain& domain : overview.domains) {
    count += static_cast<size_t>(
        std::count_if(domain.disks.begin(), domain.disks.end(),
                      [](const OverviewDisk& disk) { return disk.exact && disk.reclaimable; }));
  }
  return count;
}

std::string Tiles(const Overview& overview) {
  std::string known = "reclaimable, by estimate";
  if (const size_t exact = DisksWithExactMaps(overview); exact > 0)
    StrAppend(&known, "; of ", Count(exact, "disk"), " by exact maps");
  if (overview.disks_with_guest < overview.disks)
    StrAppend(&known, "; ", overview.disks_with_guest, " of ", overview.disks,
              " disks are known from inside");
  return StrCat(
      "<div class=\"tiles\">\n", Tile(FormatByteSize(overview.allocation), "occupied by images"),
      Tile(overview.disks_with_guest > 0 ? FormatByteSize(overview.reclaimable) : "-", known),
      Tile(FormatByteSize(overview.capacity), "promised to guests"),
      Tile(StrCat(overview.domains.size()),
           StrCat(overview.domains.size() == 1 ? "domain" : "domains", " with ",
                  Count(overview.disks, "disk"))),
      "</div>\n");
}

std::string PerDay(double bytes_per_second) {
  const double bytes = std::clamp(bytes_per_second * kSecondsOfDay, -9e18, 9e18);
  return FormatSignedByteSize(static_cast<int64_t>(bytes));
}

std::string ForecastText(const OverviewStorage& storage, absl::Time now) {
  const Forecast& forecast = storage.forecast;
  if (storage.available == 0) return "<p class=\"bad\">It is full.</p>\n";
  if (forecast.kind == ForecastKind::kUnknown)
    return "<p class=\"faint\">No forecast yet: that takes trims that are remembered over at least "
           "two days.</p>\n";
  const std::string basis =
      StrCat(" (", forecast.disks_known, " of ", Count(forecast.disks, "disk"), ", since ",
             Day(forecast.since), ")");
  if (forecast.kind == ForecastKind::kNotGrowing)
    return StrCat("<p>The images do not grow: ", PerDay(forecast.growth), " a day", basis,
                  ".</p>\n");
  if (forecast.kind == ForecastKind::kFar)
    return StrCat("<p>Not full within ten years if the images go on growing by ",
                  PerDay(forecast.growth), " a day", basis, ".</p>\n");
  const auto days = static_cast<size_t>(absl::ToInt64Hours(forecast.full_at - now) / 24);
  return StrCat("<p><b>Full about ", Day(forecast.full_at), "</b>, in ", Count(days, "day"),
                ", if the images go on growing by ", PerDay(forecast.growth), " a day", basis,
                " and nothing else is written there.</p>\n");
}

std::string StorageCard(const OverviewStorage& storage, absl::Time now) {
  // Images on the storage may have been written to since it was measured.
  const uint64_t occupied = storage.capacity - std::min(storage.available, storage.capacity);
  const uint64_t gain = std::min(storage.reclaimable, storage.images);
  const uint64_t other = occupied - std::min(storage.images, occupied);
  const std::string words =
      StrCat("of ", FormatByteSize(storage.capacity), ": images ", FormatByteSize(storage.images),
             ", of these reclaimable ", FormatByteSize(gain), "; other or reserved ",
             FormatByteSize(other), "; available ", FormatByteSize(storage.available));
  std::string card =
      StrCat("<section class=\"card\"><h3>", HtmlText(storage.name), "</h3>\n",
             Bar({{"used", storage.images - gain}, {"gain", gain}, {"other", other}},
                 storage.capacity, words),
             "\n<p class=\"faint\">", HtmlText(words), "</p>\n", ForecastText(storage, now));
  if (storage.history.size() > 1) {
    StrAppend(&card, Line(storage.history, ""), "\n<div class=\"dates\"><span>",
              Day(storage.history.front().at), ", ", FormatByteSize(storage.history.front().bytes),
              "</span><span>images, ", FormatByteSize(storage.history.back().bytes),
              "</span></div>\n");
  }
  return card + "</section>\n";
}

std::string TrimCell(const OverviewDomain& domain) {
  if (!domain.last_trim) return "-";
  std::string text = Day(domain.last_trim->began);
  if (domain.last_trim->freed)
    StrAppend(&text, "<br>freed ", FormatSignedByteSize(*domain.last_trim->freed));
  if (domain.last_trim->status != "done")
    StrAppend(&text, "<br><span class=\"bad\">", HtmlText(domain.last_trim->status), "</span>");
  return text;
}

std::string CodesHtml(const std::vector<Blocker>& blockers) {
  return absl::StrJoin(blockers, "<br>", [](std::string* out, const Blocker& blocker) {
    const std::string more = blocker.detail.empty() ? "" : StrCat(" (", blocker.detail, ")");
    StrAppend(out, "<code title=\"", HtmlText(StrCat(Sentence(blocker.reason), more)), "\">",
              Code(blocker.reason), "</code>");
  });
}

std::string DomainName(const OverviewDomain& domain) {
  std::string cell = StrCat("<td class=\"name\"><b>", HtmlText(domain.name),
                            "</b><br><span class=\"faint\">", Name(domain.state), "</span>");
  if (!domain.examined)
    StrAppend(&cell, "<br><span class=\"bad\">", HtmlText(domain.error), "</span>");
  if (domain.agent) StrAppend(&cell, "<br>", CodesHtml({*domain.agent}));
  return cell + "</td>";
}

std::string DiskRow(const OverviewDomain& domain, const OverviewDisk& disk, bool first) {
  const uint64_t allocation = disk.allocation.value_or(0);
  const uint64_t gain = std::min(disk.reclaimable.value_or(0), allocation);
  const std::string words =
      StrCat("occupies ", SizeText(disk.allocation), " of ", SizeText(disk.capacity),
             ", reclaimable ", ReclaimableHtml(disk));
  const auto number = [](const std::string& text) {
    return StrCat("<td class=\"number\">", text, "</td>");
  };
  return StrCat(
      "<tr>", first ? DomainName(domain) : "<td></td>", "<td class=\"name\">",
      HtmlText(disk.target), "</td><td>",
      Bar({{"used", allocation - gain}, {"gain", gain}}, disk.capacity.value_or(0), words), "</td>",
      number(SizeText(disk.allocation)), number(SizeText(disk.capacity)),
      number(SizeText(disk.guest_used)), number(ReclaimableHtml(disk)), "<td>",
      Line(disk.history, "class=\"small\""), "</td>", number(first ? TrimCell(domain) : ""), "<td>",
      CodesHtml(disk.blockers), "</td></tr>\n");
}

std::string DomainTable(const Overview& overview) {
  std::string table =
      "<div class=\"scroll\"><table>\n<thead><tr><th>Domain</th><th>Disk</th><th>Occupied</th>"
      "<th class=\"number\">Allocation</th><th class=\"number\">Capacity</th>"
      "<th class=\"number\">Guest uses</th><th class=\"number\">Reclaimable</th><th>Trend</th>"
      "<th class=\"number\">Last trim</th><th>Blockers</th></tr></thead>\n<tbody>\n";
  for (const OverviewDomain& domain : overview.domains) {
    if (domain.disks.empty())
      StrAppend(&table, "<tr>", DomainName(domain), "<td colspan=\"9\">-</td></tr>\n");
    bool first = true;
    for (const OverviewDisk& disk : domain.disks)
      StrAppend(&table, DiskRow(domain, disk, std::exchange(first, false)));
  }
  return table + "</tbody></table></div>\n";
}

constexpr absl::string_view kLegend =
    "<p class=\"legend\"><span><i class=\"key used\"></i> images</span>"
    "<span><i class=\"key gain\"></i> of these reclaimable</span>"
    "<span><i class=\"key other\"></i> other or reserved</span>"
    "<span><i class=\"key empty\"></i> not occupied</span></p>\n";

}  // namespace

std::string HtmlText(absl::string_view text) {
  return absl::StrReplaceAll(
      Printable(text),
      {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

std::string HtmlReport(const Overview& overview) {
  const std::string title = StrCat("Disk space of ", HtmlText(overview.hypervisor));
  std::string page = StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      // Were a name ever not escaped, its script would not run and nothing would be loaded.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'; img-src data:\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<link rel=\"icon\" href=\"data:,\">\n<title>",
      title, "</title>\n<style>\n", HtmlStyle(), "</style>\n</head>\n<body>\n<h1>", title,
      "</h1>\n<p class=\"faint\">",
      absl::FormatTime("%Y-%m-%d %H:%M UTC", overview.now, absl::UTCTimeZone()), ", virt-reclaim ",
      HtmlText(overview.version), "</p>\n", Tiles(overview));
  StrAppend(&page, "<h2>Storages</h2>\n", kLegend);
  if (overview.storages.empty())
    page += "<p class=\"faint\">No image is a file of this machine.</p>\n";
  page += "<div class=\"cards\">\n";
  for (const OverviewStorage& storage : overview.storages)
    page += StorageCard(storage, overview.now);
  StrAppend(&page, "</div>\n<h2>Domains</h2>\n", DomainTable(overview),
            "<p class=\"faint\">Allocation is measured on the host; what a guest uses is the "
            "guest's word; what is reclaimable is an estimate where there is a ~ before it, and so "
            "is the forecast. Trends are made of the trims that are remembered. Blockers: man "
            "virt-reclaim, REASON CODES.</p>\n"
            "</body>\n</html>\n");
  return page;
}

}  // namespace virt_reclaim
