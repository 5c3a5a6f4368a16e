#include "model/decoder.h"

#include <algorithm>
#include <utility>

#include "model/part.h"
#include "model/pre_tokenizer.h"
#include "model/subwords.h"
#include "model/token_text.h"

namespace attn {
namespace {

using Pieces = std::vector<std::string>;

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

void from_byte_pieces(Pieces& pieces, bool /*within*/) {
  for (std::string& piece : pieces) {
    if (const int byte = piece_byte(piece); byte >= 0) piece.assign(1, static_cast<char>(byte));
  }
}

void fuse(Pieces& pieces, bool /*within*/) {
  std::string all;
  for (const std::string& piece : pieces) all += piece;
  pieces.assign(1, std::move(all));
}

Decoder strip(const Fields& settings, bool whole_text) {
  std::string content;
  unicode::append_utf8(needed_character(settings, "content"), content);
  const auto start = static_cast<std::size_t>(settings.needed_integer("start", 0, 1 << 20));
  const auto stop = static_cast<std::size_t>(settings.needed_integer("stop", 0, 1 << 20));
  const std::size_t size = content.size();
  return [=](Pieces& pieces, bool within) {
    // Of the whole text, a part within it has neither the beginning nor the end.
    if (whole_text && within) return;
    for (std::string& piece : pieces) {
      for (std::size_t n = 0; n < start && piece.compare(0, size, content) == 0; ++n) {
        piece.erase(0, size);
      }
      for (std::size_t n = 0; n < stop && piece.size() >= size &&
                              piece.compare(piece.size() - size, size, content) == 0;
           ++n) {
        piece.resize(piece.size() - size);
      }
    }
  };
}

Decoder replace(const Fields& settings) {
  const std::string content = settings.needed_text("content");
  const Fields inner(settings.needed("pattern"), settings.source() + ": pattern");
  const Pattern pattern = make_pattern(inner);
  const std::string place = settings.source();
  return [=](Pieces& pieces, bool /*within*/) {
    for (std::string& piece : pieces) {
      std::string out;
      for (const PatternPart& part : pattern.parts(piece)) {
        out += part.match ? content : piece.substr(part.begin, part.end - part.begin);
        check_growth(piece.size(), out.size(), place);
      }
      piece = std::move(out);
    }
  };
}

Decoder metaspace(const Fields& settings) {
  std::string mark;
  unicode::append_utf8(needed_character(settings, "replacement"), mark);
  const bool prepended = read_prepend_scheme(settings) != PrependScheme::never;
  settings.boolean("split").value_or(
      true);  // means something to the pre-tokenizer of this name only
  return [=](Pieces& pieces, bool within) {
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      replace_all(pieces[i], mark, i == 0 && prepended && !within ? "" : " ");
    }
  };
}

Decoder word_piece(const Fields& settings) {
  const std::string prefix = settings.needed_text("prefix");
  const bool cleanup = settings.needed_boolean("cleanup");
  return [=](Pieces& pieces, bool within) {
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      std::string& piece = pieces[i];
      if (i > 0 || within) {
        if (piece.compare(0, prefix.size(), prefix) == 0) {
          piece.erase(0, prefix.size());
        } else {
          piece.insert(0, " ");
        }
      }
      if (!cleanup) continue;
      static const std::pair<const char*, const char*> kCleaner[] = {
          {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
          {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
          {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
      for (const auto& [from, to] : kCleaner) replace_all(piece, from, to);
    }
  };
}

// `fused`: the pieces were joined before.
Decoder make(const Json& part, const std::string& place, bool& fused) {
  const std::string type = part_type(part, place);
  const Fields settings(part, place + ": " + type);
  Decoder made;
  if (type == "Sequence") {
    std::vector<Decoder> steps;
    for (const Json& step : settings.needed_array("decoders")) {
      steps.push_back(make(step, settings.source(), fused));
    }
    made = [steps](Pieces& pieces, bool within) {
      for (const Decoder& step : steps) step(pieces, within);
    };
  } else if (type == "ByteLevel") {
    // These mean something to the pre-tokenizer and the post-processor of this name only.
    settings.boolean("add_prefix_space").value_or(true);
    settings.boolean("trim_offsets").value_or(true);
    settings.boolean("use_regex").value_or(true);
    made = from_alphabet;
    fused = true;
  } else if (type == "ByteFallback") {
    made = from_byte_pieces;
  } else if (type == "Fuse") {
    made = fuse;
    fused = true;
  } else if (type == "Strip") {
    made = strip(settings, fused);
  } else if (type == "Replace") {
    made = replace(settings);
  } else if (type == "Metaspace") {
    made = metaspace(settings);
  } else if (type == "WordPiece") {
    made = word_piece(settings);
  } else {
    settings.fail("is not a known decoder");
  }
  finish_part(settings);
  return made;
}

}  // namespace

// A piece with a character outside the alphabet, as added tokens have, stands for itself.
void from_alphabet(std::vector<std::string>& pieces, bool /*within*/) {
  for (std::string& piece : pieces) {
    std::string bytes;
    bool all = true;
    for (std::size_t at = 0; at < piece.size() && all;) {
      const auto [c, length] = next_character(std::string_view(piece).substr(at));
      const int byte = letter_to_byte(c);
      all = byte >= 0;
      bytes += static_cast<char>(byte);
      at += length;
    }
    if (all) piece = std::move(bytes);
  }
}

Decoder make_decoder(const Json& part, const std::string& place) {
  bool fused = false;
  return make(part, place, fused);
}

}  // namespace attn
