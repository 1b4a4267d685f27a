#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "xml-tools/document.h"
#include "xml-tools/domain.h"
#include "xml-tools/edit.h"
#include "xml-tools/tags.h"

namespace virt_reclaim::xml {
namespace {

using testing::HasSubstr;

Document Parsed(absl::string_view text) {
  auto document = ParseDocument(text);
  EXPECT_TRUE(document.ok()) << document.status();
  return document.ok() ? *std::move(document) : Document();
}

std::string Message(absl::string_view text) {
  const auto document = ParseDocument(text);
  EXPECT_EQ(document.status().code(), absl::StatusCode::kInvalidArgument) << document.status();
  return std::string(document.status().message());
}

std::string Slice(const Document& document, size_t begin, size_t end) {
  return std::string(document.text().substr(begin, end - begin));
}

TEST(XmlDocumentTest, KnowsTheBytesOfTagsAndValues) {
  const Document document = Parsed(
      "<!-- <b c='no'> --><a>\r\n <b c = 'x&#45;y' d=\"'>\" \n/><?p <b?>&lt;<![CDATA[<b>]]></a>");
  const NodeId b = document.Child(document.root(), "b");
  ASSERT_NE(b, kNoNode);
  const Node& node = document.node(b);
  EXPECT_EQ(Slice(document, node.begin, node.end), "<b c = 'x&#45;y' d=\"'>\" \n/>");
  EXPECT_TRUE(node.self_closing);
  EXPECT_EQ(Slice(document, node.insert_at, node.end), " \n/>");
  const Attribute* const c = document.FindAttribute(b, "c");
  ASSERT_NE(c, nullptr);
  EXPECT_EQ(c->value, "x-y");
  EXPECT_EQ(Slice(document, c->name_begin, c->value_end), "c = 'x&#45;y");
  EXPECT_EQ(Slice(document, c->value_begin, c->value_end), "x&#45;y");
  EXPECT_EQ(c->quote, '\'');
  EXPECT_EQ(document.Value(b, "d"), "'>");
  EXPECT_EQ(document.TextOf(document.root()), "<<b>");
}

TEST(XmlDocumentTest, KnowsWhereElementsEnd) {
  const Document document =
      Parsed("<a><b><!-- </b> --><c/><![CDATA[</b>]]></b ><d>\xc3\xa9</d></a>");
  const NodeId b = document.Child(document.root(), "b"), d = document.Child(document.root(), "d");
  EXPECT_EQ(Slice(document, document.node(b).begin, document.node(b).close_end),
            "<b><!-- </b> --><c/><![CDATA[</b>]]></b >");
  EXPECT_EQ(Slice(document, document.node(d).begin, document.node(d).close_end), "<d>\xc3\xa9</d>");
}

TEST(XmlDocumentTest, DecodesAmpersands) {
  EXPECT_EQ(Parsed("<a b='x&amp;y&#38;lt;&#x26;'/>").Value(1, "b"), "x&y&lt;&");
  EXPECT_EQ(Parsed("<a>x&amp;lt;</a>").TextOf(1), "x&lt;");
}

TEST(XmlDocumentTest, NamespacedElementsAreNotPlain) {
  const Document document =
      Parsed("<a xmlns:p='urn:p'><p:b/><b xmlns='urn:q'/><b p:c='1' c='2'/></a>");
  EXPECT_EQ(document.Children(document.root(), "b").size(), 1u);
  EXPECT_EQ(document.Value(document.Child(document.root(), "b"), "c"), "2");
}

TEST(XmlDocumentTest, ReadsOffsetsBehindAByteOrderMarkAndInLatin1) {
  const Document marked = Parsed("\xef\xbb\xbf<a b='1'/>");
  EXPECT_EQ(marked.node(marked.root()).begin, 3u);
  const Document latin =
      Parsed("<?xml version='1.0' encoding='ISO-8859-1'?><a x='\xe9\xe8'><b c='\xe9' d='1'/></a>");
  const NodeId b = latin.Child(latin.root(), "b");
  EXPECT_EQ(latin.Value(b, "c"), "\xc3\xa9");
  const Attribute* const d = latin.FindAttribute(b, "d");
  EXPECT_EQ(Slice(latin, d->value_begin, d->value_end), "1");
}

// Found by the fuzzer: names, too, are other bytes after the conversion.
TEST(XmlDocumentTest, ReadsNamesInLatin1) {
  const Document document = Parsed("<?xml version='1.0' encoding='ISO-8859-1'?><\xe9 t\xff='1'/>");
  EXPECT_EQ(document.node(document.root()).name, "\xc3\xa9");
  EXPECT_EQ(document.Value(document.root(), "t\xc3\xbf"), "1");
}

TEST(XmlDocumentTest, RefusesEncodingsItCannotSplice) {
  EXPECT_THAT(Message(absl::string_view("<\0a\0/\0>\0", 8)), HasSubstr("UTF-16"));
  EXPECT_THAT(Message("\xff\xfe<"), HasSubstr("UTF-16"));
  for (const char* name :
       {"UTF-16", "UTF-7", "ISO-2022-JP", "EBCDIC-CP-US", "Shift_JIS", "nonsense"}) {
    EXPECT_THAT(Message(absl::StrCat("<?xml version='1.0' encoding='", name, "'?><a/>")),
                HasSubstr("not accepted"))
        << name;
  }
  EXPECT_THAT(Message("\xef\xbb\xbf<?xml version='1.0' encoding='ISO-8859-1'?><a/>"),
              HasSubstr("byte order mark"));
}

TEST(XmlDocumentTest, RefusesWhatIsNotWellFormedAndNamesTheLine) {
  EXPECT_EQ(Message(""), "empty");
  EXPECT_EQ(Message(" \n\t"), "empty");
  EXPECT_THAT(Message("<a>\n\n</b>"), HasSubstr("line 3"));
  EXPECT_THAT(Message("<a b='1' b='2'/>"), HasSubstr("redefined"));
  EXPECT_THAT(Message("<a b=1/>"), HasSubstr("line 1"));
  EXPECT_THAT(Message("<a/><b/>"), HasSubstr("line 1"));
  EXPECT_THAT(Message("<a>&x;</a>"), HasSubstr("line 1"));
  EXPECT_THAT(Message("<a b='&x;'/>"), HasSubstr("line 1"));
  EXPECT_THAT(Message("<a>\xff\xc3(</a>"), HasSubstr("line 1"));
  EXPECT_THAT(Message("<a><undeclared:b/></a>"), HasSubstr("Namespace prefix undeclared"));
  EXPECT_THAT(Message("<a xmlns:1='u'/>"), HasSubstr("line 1"));
  EXPECT_THAT(Message("plain text"), HasSubstr("line 1"));
  EXPECT_THAT(Message(absl::string_view("<a>\n\0</a>", 9)), HasSubstr("line 2: a NUL byte"));
  EXPECT_THAT(Message(absl::string_view("<a/>\n\0garbage", 13)), HasSubstr("NUL"));
}

TEST(XmlDocumentTest, RefusesDocumentTypes) {
  for (const char* text : {"<!DOCTYPE a><a/>", "\n<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>",
                           "<!DOCTYPE a [<!ENTITY x 'y'><!ATTLIST a b CDATA 'c'>]><a>&x;</a>"}) {
    EXPECT_THAT(Message(text), HasSubstr("document type declaration"));
  }
}

TEST(XmlDocumentTest, BoundsEverything) {
  std::string nested;
  for (int i = 0; i < 10'000; ++i) nested += "<a>";
  EXPECT_THAT(Message(nested), HasSubstr("nested deeper"));
  std::string wide = "<a>";
  for (int i = 0; i < 60'000; ++i) wide += "<b/>";
  EXPECT_THAT(Message(wide + "</a>"), HasSubstr("elements"));
  std::string attributes = "<a";
  for (int i = 0; i < 100'000; ++i) absl::StrAppend(&attributes, " a", i, "=''");
  EXPECT_THAT(Message(attributes.substr(0, 900'000) + "/>"), HasSubstr("attributes"));
  EXPECT_THAT(Message(std::string(kMaxXmlBytes + 1, ' ')), HasSubstr("longer than"));
  EXPECT_THAT(Message(std::string(size_t{10} << 20, '<')), HasSubstr("longer than"));
  const std::string text = "<a>" + std::string(kMaxXmlBytes - 7, 'x') + "</a>";
  EXPECT_EQ(Parsed(text).TextOf(1).size(), kMaxXmlBytes - 7);
}

TEST(XmlDocumentTest, AnyNumberOfTagsInLatin1IsReadInTime) {
  std::string text = "<?xml version='1.0' encoding='windows-1252'?><a>";
  for (int i = 0; i < 40'000; ++i) text += "<b c='\xe9'/>";
  EXPECT_EQ(Parsed(text + "</a>").size(), 40'002u);
}

TEST(XmlDocumentTest, ErrorsOfHostileNamesArePrintable) {
  const std::string message = Message("<a>\x1b[2J</a>");
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
}

TEST(XmlEditTest, ProvesSplicesAgainstTheTree) {
  const Document document = Parsed("<a>\n  <b x='1'/>\n  <c/>\n</a>");
  const NodeId b = document.Child(document.root(), "b"), c = document.Child(document.root(), "c");
  const auto text =
      ApplyEdits(document, {SetAttribute{c, "y", "<&'\"\n>"}, SetAttribute{b, "x", "2"},
                            InsertFirst{document.root(), "n", {{"k", "v"}}}});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "<a>\n  <n k='v'/>\n  <b x='2'/>\n  <c y='&lt;&amp;&apos;\"&#10;>'/>\n</a>");
}

TEST(XmlEditTest, RemovesAndInsertsElementsWithTheirLines) {
  const Document document =
      Parsed("<a>\r\n\t<b x='1'  y=\"2\"/>\r\n\t<c><d/></c>\r\n\t<e/>\r\n</a>");
  const NodeId b = document.Child(document.root(), "b"), c = document.Child(document.root(), "c"),
               e = document.Child(document.root(), "e");
  const auto text =
      ApplyEdits(document, {RemoveElement{c}, RemoveAttribute{b, "x"}, SetAttribute{b, "z", "3"},
                            InsertAfter{b, {"n", {}, {{"m", {{"k", "v"}}, {}}}}},
                            InsertAfter{e, {"o", {}, {}}}, InsertAfter{e, {"p", {}, {}}}});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text,
            "<a>\r\n\t<b  y=\"2\" z=\"3\"/>\r\n\t<n>\r\n\t\t<m k=\"v\"/>\r\n\t</n>\r\n\t<e/>"
            "\r\n\t<o/>\r\n\t<p/>\r\n</a>");
}

TEST(XmlEditTest, RemovesAnElementBetweenOthersOnOneLine) {
  const Document document = Parsed("<a>x <b/> y<c/><d> <e>t</e></d></a>");
  const NodeId d = document.Child(document.root(), "d");
  const auto text = ApplyEdits(document, {RemoveElement{document.Child(document.root(), "b")},
                                          RemoveElement{document.Child(document.root(), "c")},
                                          RemoveElement{document.Child(d, "e")}});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "<a>x y<d></d></a>");
}

TEST(XmlEditTest, RefusesAnEditInsideWhatIsRemoved) {
  const Document document = Parsed("<a><b><c/></b></a>");
  const NodeId b = document.Child(document.root(), "b");
  EXPECT_TRUE(absl::IsInternal(
      ApplyEdits(document, {RemoveElement{b}, SetAttribute{document.Child(b, "c"), "x", "1"}})
          .status()));
}

TEST(XmlEditTest, RefusesTwoEditsOfTheSameValue) {
  const Document document = Parsed("<a b='1'/>");
  EXPECT_TRUE(absl::IsInternal(
      ApplyEdits(document, {SetAttribute{1, "b", "2"}, SetAttribute{1, "b", "3"}}).status()));
}

TEST(XmlEditTest, RefusesAnEditThatMakesOtherXmlThanPlanned) {
  const Document document = Parsed("<a><b/></a>");
  EXPECT_TRUE(absl::IsInternal(
      ApplyEdits(document, {InsertFirst{document.root(), "n x='1'", {}}}).status()));
  EXPECT_TRUE(absl::IsInternal(ApplyEdits(document, {SetAttribute{1, "b='' c", ""}}).status()));
  EXPECT_TRUE(absl::IsInternal(ApplyEdits(document, {SetAttribute{1, "<", ""}}).status()));
}

TEST(XmlEditTest, FlattenTellsTreesApart) {
  const std::string a = Flatten(Parsed("<a x='1'><b/>t</a>"), {});
  EXPECT_EQ(a, Flatten(Parsed("<a  x = \"1\" ><b></b>t</a >"), {}));
  for (const char* other :
       {"<a x='2'><b/>t</a>", "<a><b/>t</a>", "<a x='1'>t<b/></a>", "<a x='1'><b>t</b></a>",
        "<a x='1'><b/>t<!----></a>", "<a x='1'><b/><![CDATA[t]]></a>",
        "<a x='1' xmlns='u'><b/>t</a>", "<a x='1'><b/>t</a><!--c-->"}) {
    EXPECT_NE(a, Flatten(Parsed(other), {})) << other;
  }
}

}  // namespace
}  // namespace virt_reclaim::xml
