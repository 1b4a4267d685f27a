// The page of `report --html`: one file without scripts that loads nothing from anywhere, for light
// and dark screens and for paper. Pure: facts in, text out.
#ifndef VIRT_RECLAIM_HOST_CLI_HTML_REPORT_H_
#define VIRT_RECLAIM_HOST_CLI_HTML_REPORT_H_

#include <string>

#include "absl/strings/string_view.h"
#include "host/model/overview.h"

namespace virt_reclaim {

// Names of domains and mount points may be anything; in the page they are text.
std::string HtmlReport(const Overview& overview);

// `text`, made printable, as text of HTML or as an attribute's value in double quotes.
std::string HtmlText(absl::string_view text);

// The page's style sheet (html_style.cc).
absl::string_view HtmlStyle();

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_HTML_REPORT_H_
