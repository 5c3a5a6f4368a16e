// Masks as text: Mask::to_string and its inverse, Mask::parse. The grammar is in attn/mask.h.
#include <algorithm>
#include <charconv>
#include <cstddef>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "attn/mask.h"
#include "mask/node.h"

namespace attn {
namespace {

using Node = Mask::Node;
using Arguments = std::vector<std::int64_t>;

template <typename List, typename Write>
std::string join(const List& list, const char* separator, Write write) {
  std::string text;
  for (const auto& item : list) {
    if (!text.empty()) text += separator;
    text += write(item);
  }
  return text;
}

std::string number(std::int64_t value) { return std::to_string(value); }

std::string numbers(const std::vector<std::int64_t>& list) { return join(list, ", ", number); }

std::string write(const Mask& mask) {
  return std::visit(
      [](const auto& node) -> std::string {
        using T = std::decay_t<decltype(node)>;
        if constexpr (std::is_same_v<T, Node::Full>) {
          return "full";
        } else if constexpr (std::is_same_v<T, Node::Causal>) {
          return "causal";
        } else if constexpr (std::is_same_v<T, Node::Window>) {
          return "window(" + numbers({node.left, node.right}) + ")";
        } else if constexpr (std::is_same_v<T, Node::DilatedWindow>) {
          return "dilated_window(" + numbers({node.left, node.right, node.step}) + ")";
        } else if constexpr (std::is_same_v<T, Node::GlobalTokens>) {
          return "global_tokens(" + numbers(node.positions) + ")";
        } else if constexpr (std::is_same_v<T, Node::Blocks>) {
          const std::string pairs = join(node.visible, ", ", [](const auto& block) {
            return number(block.first) + "-" + number(block.second);
          });
          return "blocks(" + number(node.size) + (pairs.empty() ? ";)" : "; " + pairs + ")");
        } else if constexpr (std::is_same_v<T, Node::BlockWindow>) {
          return "block_window(" + numbers({node.size, node.left, node.right}) + ")";
        } else if constexpr (std::is_same_v<T, Node::GlobalBlocks>) {
          return "global_blocks(" + numbers({node.size, node.first, node.last}) + ")";
        } else if constexpr (std::is_same_v<T, Node::DrawnBlocks>) {
          const RandomBlocks &rule = node.rule, otherwise;
          Arguments list = {rule.size, rule.count, static_cast<std::int64_t>(rule.seed)};
          if (rule.band != otherwise.band || rule.first != otherwise.first ||
              rule.last != otherwise.last) {
            list.insert(list.end(), {rule.band, rule.first, rule.last});
          }
          return "random_blocks(" + numbers(list) + ")";
        } else if constexpr (std::is_same_v<T, Node::Documents>) {
          std::vector<std::int64_t> lengths = node.ends;
          for (std::size_t d = lengths.size(); d-- > 1;) lengths[d] -= lengths[d - 1];
          return "documents(" + numbers(lengths) + ")";
        } else if constexpr (std::is_same_v<T, Node::Prefix>) {
          return "prefix(" + number(node.n) + ")";
        } else if constexpr (std::is_same_v<T, Node::Padding>) {
          const bool left = node.side == PaddingSide::left;
          return (left ? "padding_left(" : "padding(") + numbers(node.lengths) + ")";
        } else if constexpr (std::is_same_v<T, Node::Dense>) {
          return "dense[" + numbers({node.shape.begin(), node.shape.end()}) + "]";
        } else if constexpr (std::is_same_v<T, Node::Custom>) {
          return "predicate";
        } else if constexpr (std::is_same_v<T, Node::PerHead>) {
          return "per_head(" + join(node.masks, "; ", write) + ")";
        } else if constexpr (std::is_same_v<T, Node::PerBatch>) {
          return "per_batch(" + join(node.masks, "; ", write) + ")";
        } else if constexpr (std::is_same_v<T, Node::All>) {
          return join(node.masks, " & ", [](const Mask& part) {
            const bool loose = std::holds_alternative<Node::Any>(part.node().data);
            return loose ? "(" + write(part) + ")" : write(part);
          });
        } else {
          return join(node.masks, " | ", write);
        }
      },
      mask.node().data);
}

// Masks of numbers alone, as they may be written.
struct Form {
  const char* name;
  std::size_t arguments;  // kAny: a list of any length
  const char* meaning;
  Mask (*make)(std::vector<std::int64_t> arguments);
};
constexpr std::size_t kAny = static_cast<std::size_t>(-1);

constexpr const char* kKnown =
    "full, causal, window(left, right), dilated(left, right, step), global(positions), "
    "blocks(size; q-k, ...), block_window(size, left, right), global_blocks(size, first, last), "
    "random_blocks(size, count, seed), bigbird(size, random, seed), documents(lengths), prefix(n), "
    "padding(lengths), padding-left(lengths), per_head(mask; ...), per_batch(mask; ...)";

Mask dilated(const Arguments& a) { return Mask::dilated_window(a[0], a[1], a[2]); }
Mask global(Arguments a) { return Mask::global_tokens(std::move(a)); }
Mask padding_left(Arguments a) { return Mask::padding(std::move(a), PaddingSide::left); }

Mask random_blocks(const Arguments& a) {
  RandomBlocks rule{.size = a[0], .count = a[1], .seed = static_cast<std::uint64_t>(a[2])};
  if (a.size() == 6) {
    rule.band = a[3];
    rule.first = a[4];
    rule.last = a[5];
  }
  return Mask::random_blocks(rule);
}
Mask bigbird(const Arguments& a) {
  return Mask::bigbird(a[0], a[1], static_cast<std::uint64_t>(a[2]));
}

// A name that stands twice takes either number of arguments.
const Form kForms[] = {
    {"full", 0, "", [](Arguments) { return Mask::full(); }},
    {"causal", 0, "", [](Arguments) { return Mask::causal(); }},
    {"window", 2, "left, right", [](Arguments a) { return Mask::window(a[0], a[1]); }},
    {"dilated", 3, "left, right, step", [](Arguments a) { return dilated(a); }},
    {"dilated_window", 3, "left, right, step", [](Arguments a) { return dilated(a); }},
    {"global", kAny, "", global},
    {"global_tokens", kAny, "", global},
    {"block_window", 3, "size, left, right",
     [](Arguments a) { return Mask::block_window(a[0], a[1], a[2]); }},
    {"global_blocks", 3, "size, first, last",
     [](Arguments a) { return Mask::global_blocks(a[0], a[1], a[2]); }},
    {"random_blocks", 3, "size, count, seed", [](Arguments a) { return random_blocks(a); }},
    {"random_blocks", 6, "", [](Arguments a) { return random_blocks(a); }},
    {"bigbird", 3, "size, random, seed", [](Arguments a) { return bigbird(a); }},
    {"documents", kAny, "", [](Arguments a) { return Mask::documents(std::move(a)); }},
    {"prefix", 1, "n", [](Arguments a) { return Mask::prefix(a[0]); }},
    {"padding", kAny, "", [](Arguments a) { return Mask::padding(std::move(a)); }},
    {"padding_left", kAny, "", padding_left},
};

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Mask parse() {
    Mask mask = any();
    skip_spaces();
    if (at_ < text_.size()) fail(at_, "expected &, | or the end, found " + seen());
    return mask;
  }

 private:
  [[noreturn]] void fail(std::size_t at, const std::string& what) const {
    std::string quoted(text_.substr(0, 100));
    for (char& c : quoted) {
      if (c < ' ' || c > '~') c = '?';
    }
    if (text_.size() > quoted.size()) quoted += "...";
    throw std::invalid_argument("[mask] column " + std::to_string(at + 1) + " of \"" + quoted +
                                "\": " + what);
  }

  void skip_spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n')) {
      ++at_;
    }
  }
  char peek() {
    skip_spaces();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) fail(at_, std::string("expected ") + c + ", found " + seen());
  }
  std::string seen() const {
    if (at_ >= text_.size()) return "the end";
    const char c = text_[at_];
    return c < ' ' || c > '~' ? "a byte that is not printable" : std::string("\"") + c + "\"";
  }

  // Pairwise, so that a long chain is not copied once a link.
  static Mask fold(std::vector<Mask> masks, Mask (*combine)(const Mask&, const Mask&)) {
    while (masks.size() > 1) {
      std::vector<Mask> halved;
      for (std::size_t i = 0; i + 1 < masks.size(); i += 2) {
        halved.push_back(combine(masks[i], masks[i + 1]));
      }
      if (masks.size() % 2 == 1) halved.push_back(masks.back());
      masks = std::move(halved);
    }
    return masks[0];
  }

  Mask any() {
    std::vector<Mask> masks = {all()};
    while (take('|')) masks.push_back(all());
    return fold(std::move(masks), [](const Mask& a, const Mask& b) { return a | b; });
  }

  Mask all() {
    std::vector<Mask> masks = {one()};
    while (take('&')) masks.push_back(one());
    return fold(std::move(masks), [](const Mask& a, const Mask& b) { return a & b; });
  }

  Mask one() {
    constexpr int kDeepest = 64;
    if (++depth_ > kDeepest) fail(at_, "nested more than " + number(kDeepest) + " deep");
    const std::size_t begin = (skip_spaces(), at_);
    Mask mask;
    if (take('(')) {
      mask = any();
      expect(')');
    } else {
      const std::string name = word();
      try {
        mask = named(name, begin);
      } catch (const std::invalid_argument& error) {
        // What a factory refuses gets its place; what has one already passes.
        const std::string_view what = error.what();
        if (what.substr(0, 14) == "[mask] column ") throw;
        fail(begin, std::string(what.substr(std::string_view("[mask] ").size())));
      }
    }
    --depth_;
    return mask;
  }

  std::string word() {
    std::string name;
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-')) break;
      name += c == '-' ? '_' : c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
    return name;
  }

  Mask named(const std::string& name, std::size_t begin) {
    if (name.empty()) fail(begin, "expected a mask, found " + seen() + "; known: " + kKnown);
    if (name == "blocks") return blocks(begin);
    if (name == "per_head") return Mask::per_head(list_of_masks());
    if (name == "per_batch") return Mask::per_batch(list_of_masks());
    if (name == "dense" || name == "predicate") {
      fail(begin, name + " masks cannot be written as text; known: " + kKnown);
    }
    const auto named = [&](const Form& form) { return name == form.name; };
    const Form* form = std::find_if(std::begin(kForms), std::end(kForms), named);
    if (form == std::end(kForms)) {
      fail(begin, "unknown mask \"" + name + "\"; known: " + kKnown);
    }
    const bool colon = peek() == ':';
    const bool given = colon || peek() == '(';
    if (given) ++at_;
    Arguments list;
    if (given && (colon || peek() != ')')) list = integers();
    if (given && !colon) expect(')');
    if (form->arguments == kAny && !given) fail(begin, name + " needs a list of numbers");
    if (form->arguments != kAny && list.size() != form->arguments) {
      const Form* other = std::find_if(form + 1, std::end(kForms), named);
      if (other != std::end(kForms) && list.size() == other->arguments) {
        return other->make(std::move(list));
      }
      const std::string form_text = form->arguments == 0
                                        ? "no numbers"
                                        : number(static_cast<std::int64_t>(form->arguments)) +
                                              (form->arguments == 1 ? " number (" : " numbers (") +
                                              form->meaning + ")";
      fail(begin, name + " takes " + form_text + ", not " +
                      number(static_cast<std::int64_t>(list.size())));
    }
    return form->make(std::move(list));
  }

  std::int64_t integer() {
    skip_spaces();
    std::int64_t value = 0;
    const char* first = text_.data() + at_;
    const auto [end, error] = std::from_chars(first, text_.data() + text_.size(), value);
    if (error == std::errc::result_out_of_range) fail(at_, "number too large");
    if (error != std::errc()) fail(at_, "expected a number, found " + seen());
    at_ += static_cast<std::size_t>(end - first);
    return value;
  }

  Arguments integers() {
    Arguments list = {integer()};
    while (take(',')) list.push_back(integer());
    return list;
  }

  // (size; q-k, q-k, ...) or :size;q-k,q-k,... ; (size;) lists no pair, and shows nothing.
  Mask blocks(std::size_t begin) {
    const bool colon = take(':');
    if (!colon) expect('(');
    const std::int64_t size = integer();
    std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
    bool listed = false;
    if (take(';') || take(':')) {
      listed = !colon;
      const char c = peek();
      if (c == '-' || (c >= '0' && c <= '9')) {
        do {
          const std::int64_t query = integer();
          expect('-');
          pairs.emplace_back(query, integer());
        } while (take(','));
        listed = true;
      }
    }
    if (!colon) expect(')');
    // A size alone may be meant as a diagonal or as a tiling: it must not hide everything.
    if (!listed) {
      fail(begin, "blocks lists no pair: write blocks(" + number(size) +
                      "; 0-0, 1-0, 1-1), query block - key block, or blocks(" + number(size) +
                      ";) for none");
    }
    return Mask::blocks(size, std::move(pairs));
  }

  std::vector<Mask> list_of_masks() {
    expect('(');
    std::vector<Mask> masks = {any()};
    while (take(';')) masks.push_back(any());
    expect(')');
    return masks;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::string Mask::to_string() const { return write(*this); }

Mask Mask::parse(const std::string& text) { return Parser(text).parse(); }

}  // namespace attn
