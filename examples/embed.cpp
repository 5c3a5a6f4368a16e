// Embeds three sentences and prints how close each two are.
//
//   embed [MODEL]    a folder in Hugging Face layout, or a known model's name (default: minilm)
#include <attn/model.h>

#include <cstdio>
#include <string>
#include <vector>

int main(int argc, char** argv) try {
  const attn::Model model = attn::Model::load(attn::resolve_model(argc > 1 ? argv[1] : "minilm"));
  const std::vector<std::string> sentences = {"A cat is sleeping on the sofa.",
                                              "The kitten naps on a couch.",
                                              "Interest rates rose again this quarter."};
  std::vector<attn::Encoding> encodings;
  for (const std::string& sentence : sentences) encodings.push_back(model.encode(sentence));
  const std::vector<std::vector<float>> vectors = model.embed(encodings);
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    for (std::size_t j = i + 1; j < vectors.size(); ++j) {
      double similarity = 0;
      for (std::size_t d = 0; d < vectors[i].size(); ++d)
        similarity += vectors[i][d] * vectors[j][d];
      std::printf("%.3f  %s | %s\n", similarity, sentences[i].c_str(), sentences[j].c_str());
    }
  }
} catch (const attn::Error& error) {
  std::fprintf(stderr, "embed: %s\n", error.what());
  return 1;
}
