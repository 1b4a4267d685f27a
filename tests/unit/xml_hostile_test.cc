// Whatever the bytes are: a Status, and in time. Worth the most under ASan and UBSan.
#include <gtest/gtest.h>

#include <ctime>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "xml-tools/document.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {
namespace {

constexpr char kDomain[] =
    "\xef\xbb\xbf<?xml version=\"1.0\" encoding='UTF-8'?>\r\n<!-- c --><domain type='kvm' "
    "xmlns:q='urn:q'><name>a&amp;\xc3\xa9</name>"
    "<os><type machine=\"pc-q35-3.1\">hvm</type></os><devices><disk type='file'><!-- x --><driver "
    "name='qemu' discard='ignore'/>"
    "<source file='/a&#x41;&lt;'/><target dev=\"vda\" "
    "bus='virtio'/></disk><q:disk/><![CDATA[<disk>]]><?p i?>"
    "<disk type='file'>\n\t<source file='b'/><target dev='vdb' "
    "bus='virtio'/></disk></devices></domain>\n";

void CheckWith(absl::string_view text, const RewriteOptions& options) {
  const auto once = Rewrite(text, options);
  if (!once.ok()) {
    EXPECT_EQ(once.status().message().find('\n'), absl::string_view::npos) << once.status();
    return;
  }
  const auto twice = Rewrite(once->text, options);
  ASSERT_TRUE(twice.ok()) << twice.status() << "\n" << text;
  EXPECT_EQ(twice->text, once->text);
}

void Check(absl::string_view text) {
  CheckWith(text, {});
  RewriteOptions most;
  most.bus = BusPolicy::kVirtioScsi;
  most.channel = ChannelPolicy::kAdd;
  most.machine = MachinePolicy::kLatest;
  most.detect_zeroes = DetectZeroesPolicy::kOn;
  CheckWith(text, most);
}

TEST(XmlHostileTest, CutOffAtEveryByte) {
  const absl::string_view text = kDomain;
  ASSERT_TRUE(Rewrite(text, {}).ok()) << Rewrite(text, {}).status();
  for (size_t length = 0; length < text.size() - 1; ++length) {
    EXPECT_EQ(Rewrite(text.substr(0, length), {}).status().code(),
              absl::StatusCode::kInvalidArgument)
        << length;
  }
}

TEST(XmlHostileTest, EveryByteReplaced) {
  for (size_t i = 0; i + 1 < sizeof kDomain; ++i) {
    for (const char c :
         {'<', '>', '"', '\'', '&', '/', '!', '?', '=', ' ', '\0', '\r', '\xff', '\xc3'}) {
      std::string text = kDomain;
      text[i] = c;
      Check(text);
    }
  }
}

TEST(XmlHostileTest, RandomMutations) {
  std::mt19937 random(4);
  constexpr absl::string_view kPieces[] = {"<",
                                           ">",
                                           "/>",
                                           "'",
                                           "\"",
                                           "&amp;",
                                           "&x;",
                                           "<!--",
                                           "-->",
                                           "<![CDATA[",
                                           "]]>",
                                           "<?",
                                           "?>",
                                           "<disk>",
                                           "</disk>",
                                           "<driver discard='ignore'/>",
                                           " discard='x'",
                                           "xmlns='u'",
                                           "\xe2\x80"};
  for (int i = 0; i < 5000; ++i) {
    std::string text = kDomain;
    for (size_t n = 1 + random() % 4; n > 0; --n) {
      const size_t at = random() % text.size();
      if (random() % 2 == 0) {
        text.erase(at, random() % 12);
      } else {
        const absl::string_view piece = kPieces[random() % std::size(kPieces)];
        text.insert(at, piece.data(), piece.size());
      }
      if (text.empty()) text = "<";
    }
    Check(text);
  }
}

TEST(XmlHostileTest, EntityBombs) {
  std::string bomb = "<?xml version='1.0'?>\n<!DOCTYPE domain [<!ENTITY a0 'ha'>";
  for (int i = 1; i < 30; ++i)
    absl::StrAppend(&bomb, "<!ENTITY a", i, " '&a", i - 1, ";&a", i - 1, ";'>");
  Check(bomb + "]><domain type='kvm'><name>&a29;</name></domain>");
  Check("<!DOCTYPE d SYSTEM 'http://localhost:1/x.dtd'><d/>");
  Check("<!DOCTYPE d [<!ENTITY % p SYSTEM 'file:///etc/passwd'> %p;]><d/>");
  EXPECT_FALSE(Rewrite("<domain xmlns:xi='http://www.w3.org/2001/XInclude'><xi:include "
                       "href='/etc/passwd'/></domain>",
                       {})
                   .ok());
}

TEST(XmlHostileTest, LargeTextsEndInTime) {
  // Of this process, however many others there are.
  const std::clock_t begin = std::clock();
  const auto repeated = [](absl::string_view piece, size_t bytes) {
    std::string out;
    while (out.size() < bytes) out.append(piece.data(), piece.size());
    return out;
  };
  for (const char* piece :
       {"<a>", "<a/>", "<a b='", " a='b'", "<", "&", "&amp;", "<!--", "<!-- -->", "<![CDATA[",
        "<?x", "</a>", "'", "x\n", "<a xmlns='u'>", "<a xmlns:b='u'/>", "\xc3\xa9",
        "<disk type='file'><source/><target bus='virtio'/></disk>"}) {
    for (const char* prefix : {"", "<a>", "<a ", "<a b='", "<domain type='kvm'><devices>"}) {
      Check(prefix + repeated(piece, kMaxXmlBytes - 100));
      Check(prefix + repeated(piece, kMaxXmlBytes - 100) + "</devices></domain>");
    }
    Check(repeated(piece, size_t{10} << 20));
  }
  EXPECT_LT(std::clock() - begin, 30 * CLOCKS_PER_SEC);
}

}  // namespace
}  // namespace virt_reclaim::xml
