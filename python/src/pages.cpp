// attn.Page and attn.HeadStatistics.
#include "pages.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>

#include "attn/inspect.h"
#include "bindings.h"

namespace attn::python {

using namespace nb::literals;

std::string Page::html() const {
  const nb::gil_scoped_release release;
  return translation ? page(*translation, title) : page(*record, title);
}

std::string Page::write(const std::string& path) const {
  const nb::gil_scoped_release release;
  return translation ? write_page(*translation, path, title) : write_page(*record, path, title);
}

const AttentionRecord& Page::part(const std::optional<std::string>& name) const {
  if (!translation) {
    if (name) throw std::invalid_argument("[page] there are no parts, such as '" + *name + "'");
    return *record;
  }
  if (name == "encoder") return translation->encoder;
  if (name == "decoder") return translation->decoder;
  if (name == "cross") return translation->cross;
  throw std::invalid_argument("[page] part is " + (name ? "'" + *name + "'" : "not given") +
                              ", must be encoder, decoder or cross");
}

namespace {

using Part = std::optional<std::string>;

std::vector<std::string> texts(const std::vector<RecordToken>& tokens) {
  std::vector<std::string> all;
  for (const RecordToken& t : tokens) all.push_back(t.text);
  return all;
}

// "&quot;" and "&amp;": what an attribute's value must not hold bare.
std::string attribute(const std::string& html) {
  std::string out;
  out.reserve(html.size());
  for (const char c : html) {
    if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

}  // namespace

void bind_pages(nb::module_& m) {
  nb::class_<HeadStatistics>(m, "HeadStatistics",
                             "Means over a head's queries. Of cross-attention, previous, next, "
                             "self_ and distance are NaN: its queries and keys are of two texts.")
      .def_ro("layer", &HeadStatistics::layer)
      .def_ro("head", &HeadStatistics::head)
      .def_ro("entropy", &HeadStatistics::entropy)
      .def_ro("relative_entropy", &HeadStatistics::relative_entropy)
      .def_ro("previous", &HeadStatistics::previous)
      .def_ro("next", &HeadStatistics::next)
      .def_ro("self_", &HeadStatistics::self)
      .def_ro("first", &HeadStatistics::first)
      .def_ro("special", &HeadStatistics::special)
      .def_ro("distance", &HeadStatistics::distance)
      .def_ro("max_probability", &HeadStatistics::max_probability);

  nb::class_<Page>(m, "Page", R"(A page that shows what every head attends to.

One self-contained HTML file. In a notebook it shows itself. Of an encoder-decoder it has three tabs,
whose numbers are asked for by part: "encoder", "decoder" or "cross".)")
      .def("html", &Page::html, "The file's text.")
      .def(
          "save",
          [](const Page& p, nb::handle path) {
            return p.write(nb::cast<std::string>(nb::module_::import_("os").attr("fspath")(path)));
          },
          "path"_a, "Writes the file whole or not at all; returns its absolute path.")
      .def(
          "statistics",
          [](const Page& p, const Part& part) {
            const AttentionRecord& record = p.part(part);
            nb::gil_scoped_release release;
            return head_statistics(record, Context());
          },
          "part"_a = nb::none(), "Statistics of every head, layer by layer.")
      .def(
          "findings",
          [](const Page& p, std::size_t count, const Part& part) {
            const AttentionRecord& record = p.part(part);
            nb::gil_scoped_release release;
            return findings(record, head_statistics(record, Context()), count);
          },
          "count"_a = 3, "part"_a = nb::none(), "What stands out, a sentence or two each.")
      .def(
          "row",
          [](const Page& p, int layer, int head, std::int64_t query, const Part& part) {
            return attention_row(p.part(part), layer, head, query);
          },
          "layer"_a, "head"_a, "query"_a, "part"_a = nb::none(),
          "The attention of one query, [keys].")
      .def_prop_ro(
          "tokens", [](const Page& p) { return texts(p.shown().tokens); },
          "Of an encoder-decoder: the target's, its start included.")
      .def_prop_ro(
          "keys", [](const Page& p) { return texts(p.shown().key_tokens()); },
          "The tokens that are looked at: the same, or of an encoder-decoder the source's.")
      .def("_repr_html_", [](const Page& p) {
        return "<iframe style=\"width:100%;height:720px;border:0\" sandbox=\"allow-scripts "
               "allow-downloads\" srcdoc=\"" +
               attribute(p.html()) + "\"></iframe>";
      });
}

}  // namespace attn::python
