// UnifiedDiff of rewrite.h: Eugene Myers' greedy O(ND) comparison of lines, printed as diff -u
// does. Pure. Any thread.
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {
namespace {

constexpr size_t kContext = 3;
// Beyond so many changed lines the texts have nothing to do with each other: all of the middle is
// shown as changed, instead of spending time and memory by the square.
constexpr size_t kMaxDistance = 1000;

using Lines = std::vector<absl::string_view>;  // each with its newline

Lines SplitLines(absl::string_view text) {
  Lines lines;
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    const size_t length = newline == absl::string_view::npos ? text.size() : newline + 1;
    lines.push_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return lines;
}

// What differs: gone[i] of the old lines, come[j] of the new ones.
struct Marks {
  std::vector<bool> gone, come;
};

// Marks the lines between `skip` equal ones at the start and `end_*`, by the shortest edit script.
class Myers {
 public:
  Myers(const Lines& a, const Lines& b, size_t skip, size_t end_a, size_t end_b)
      : a_(a),
        b_(b),
        skip_(skip),
        n_(static_cast<long>(end_a - skip)),
        m_(static_cast<long>(end_b - skip)) {}

  void Mark(Marks& marks) {
    if (!Forward()) {
      std::fill_n(marks.gone.begin() + static_cast<long>(skip_), n_, true);
      std::fill_n(marks.come.begin() + static_cast<long>(skip_), m_, true);
      return;
    }
    Backward(marks);
  }

 private:
  bool Same(long x, long y) const {
    return a_[skip_ + static_cast<size_t>(x)] == b_[skip_ + static_cast<size_t>(y)];
  }
  // Whether the furthest path of distance d to diagonal k goes down (a line comes) rather than
  // right (a line goes).
  static bool GoesDown(const std::vector<long>& v, long d, long k, long offset) {
    return k == -d || (k != d && v[static_cast<size_t>(k - 1 + offset)] <
                                     v[static_cast<size_t>(k + 1 + offset)]);
  }

  bool Forward() {
    const long limit = std::min<long>(n_ + m_, kMaxDistance);
    offset_ = limit + 1;
    std::vector<long> v(static_cast<size_t>(2 * limit + 3), 0);
    for (long d = 0; d <= limit; ++d) {
      // Only the diagonals -d-1..d+1 were touched so far; keep those.
      trace_.emplace_back(v.begin() + (offset_ - d - 1), v.begin() + (offset_ + d + 2));
      for (long k = -d; k <= d; k += 2) {
        long x = GoesDown(v, d, k, offset_) ? v[static_cast<size_t>(k + 1 + offset_)]
                                            : v[static_cast<size_t>(k - 1 + offset_)] + 1;
        while (x < n_ && x - k < m_ && Same(x, x - k)) ++x;
        v[static_cast<size_t>(k + offset_)] = x;
        if (x >= n_ && x - k >= m_) return true;
      }
    }
    return false;
  }

  void Backward(Marks& marks) const {
    long x = n_, y = m_;
    for (long d = static_cast<long>(trace_.size()) - 1; d > 0; --d) {
      const std::vector<long>& v = trace_[static_cast<size_t>(d)];
      const long k = x - y, offset = d + 1;
      const bool down = GoesDown(v, d, k, offset);
      const long from_k = down ? k + 1 : k - 1;
      x = v[static_cast<size_t>(from_k + offset)];
      y = x - from_k;
      if (down) {
        marks.come[skip_ + static_cast<size_t>(y)] = true;
      } else {
        marks.gone[skip_ + static_cast<size_t>(x)] = true;
      }
    }
  }

  const Lines& a_;
  const Lines& b_;
  const size_t skip_;
  const long n_, m_;
  long offset_ = 0;
  std::vector<std::vector<long>> trace_;
};

// Of the equally short scripts, diff prints the one whose groups of changed lines stand as far down
// as they can.
void SlideDown(const Lines& lines, std::vector<bool>& marked, const std::vector<bool>& other) {
  if (std::find(other.begin(), other.end(), true) != other.end())
    return;  // only when nothing has to stay opposite
  for (size_t end = 1; end < lines.size(); ++end) {
    if (!marked[end - 1] || marked[end]) continue;
    size_t begin = end;
    while (begin > 0 && marked[begin - 1]) --begin;
    if (lines[begin] != lines[end]) continue;
    marked[begin] = false;
    marked[end] = true;
  }
}

Marks Compare(const Lines& a, const Lines& b) {
  Marks marks{std::vector<bool>(a.size(), false), std::vector<bool>(b.size(), false)};
  size_t skip = 0, end_a = a.size(), end_b = b.size();
  while (skip < end_a && skip < end_b && a[skip] == b[skip]) ++skip;
  while (end_a > skip && end_b > skip && a[end_a - 1] == b[end_b - 1]) --end_a, --end_b;
  Myers(a, b, skip, end_a, end_b).Mark(marks);
  SlideDown(a, marks.gone, marks.come);
  SlideDown(b, marks.come, marks.gone);
  return marks;
}

// Changed lines that stand together, as half-open ranges of both sides.
struct Group {
  size_t a_begin, a_end, b_begin, b_end;
};

std::vector<Group> GroupsOf(const Marks& marks) {
  std::vector<Group> groups;
  size_t i = 0, j = 0;
  while (i < marks.gone.size() || j < marks.come.size()) {
    Group group{i, i, j, j};
    while (group.a_end < marks.gone.size() && marks.gone[group.a_end]) ++group.a_end;
    while (group.b_end < marks.come.size() && marks.come[group.b_end]) ++group.b_end;
    const bool changed = group.a_end != i || group.b_end != j;
    if (changed) groups.push_back(group);
    i = changed ? group.a_end : i + 1;
    j = changed ? group.b_end : j + 1;
  }
  return groups;
}

std::string Range(size_t begin, size_t end) {
  const size_t count = end - begin;
  if (count == 1) return absl::StrCat(begin + 1);
  return absl::StrCat(count == 0 ? begin : begin + 1, ",", count);
}

void Print(std::string& out, char mark, const Lines& lines, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    out += mark;
    out.append(lines[i].data(), lines[i].size());
    if (lines[i].back() != '\n') out += "\n\\ No newline at end of file\n";
  }
}

// One hunk: the groups [first, last) and the equal lines between and around them.
void PrintHunk(std::string& out, const Lines& a, const Lines& b, const Group* first,
               const Group* last) {
  const size_t lead = std::min(kContext, first->a_begin);
  const size_t tail = std::min(kContext, a.size() - (last - 1)->a_end);
  const size_t a_begin = first->a_begin - lead, a_end = (last - 1)->a_end + tail;
  absl::StrAppend(&out, "@@ -", Range(a_begin, a_end), " +",
                  Range(first->b_begin - lead, (last - 1)->b_end + tail), " @@\n");
  size_t at = a_begin;
  for (const Group* group = first; group != last; ++group) {
    Print(out, ' ', a, at, group->a_begin);
    Print(out, '-', a, group->a_begin, group->a_end);
    Print(out, '+', b, group->b_begin, group->b_end);
    at = group->a_end;
  }
  Print(out, ' ', a, at, a_end);
}

}  // namespace

std::string UnifiedDiff(absl::string_view before, absl::string_view after,
                        absl::string_view before_name, absl::string_view after_name) {
  if (before == after) return "";
  const Lines a = SplitLines(before), b = SplitLines(after);
  const std::vector<Group> groups = GroupsOf(Compare(a, b));
  std::string out = absl::StrCat("--- ", before_name, "\n+++ ", after_name, "\n");
  const Group* const end = groups.data() + groups.size();
  for (const Group* first = groups.data(); first != end;) {
    const Group* last = first + 1;
    while (last != end && last->a_begin - (last - 1)->a_end <= 2 * kContext) ++last;
    PrintHunk(out, a, b, first, last);
    first = last;
  }
  return out;
}

}  // namespace virt_reclaim::xml
