# Writes OUTPUT, a C++ file that holds the texts of the folder TEXTS by their topics.
include(${CMAKE_CURRENT_LIST_DIR}/../../cmake/AttnLiteral.cmake)

file(GLOB files ${TEXTS}/*.md)
list(SORT files)
set(output "// Made from docs/mechanisms/ by embed.cmake.\n#include \"measure/texts.h\"\n\n\
namespace attn::measuring {\nconst std::vector<MechanismText>& texts() {\n\
  static const std::vector<MechanismText> list = {\n")
foreach(file IN LISTS files)
  get_filename_component(topic ${file} NAME_WE)
  attn_literal(pieces ${file})
  string(APPEND output "{\"${topic}\",\n${pieces}},\n")
endforeach()
string(APPEND output "};\n  return list;\n}\n}  // namespace attn::measuring\n")
file(WRITE ${OUTPUT} "${output}")
