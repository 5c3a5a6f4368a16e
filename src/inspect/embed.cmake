# Writes OUTPUT, a C++ file that holds the files of the page in the folder WEB as strings.
include(${CMAKE_CURRENT_LIST_DIR}/../../cmake/AttnLiteral.cmake)

set(output "// Made from the folder web/ by embed.cmake.\nnamespace attn::web {\n")
function(literal name)
  attn_literal(pieces ${ARGN})
  set(output "${output}extern const char* const ${name};\nconst char* const ${name} =\n${pieces};\n"
    PARENT_SCOPE)
endfunction()
literal(kIndex ${WEB}/index.html)
literal(kStyle ${WEB}/style.css)
literal(kMaths ${WEB}/maths.js)
literal(kScript ${SCRIPTS})
string(APPEND output "}  // namespace attn::web\n")
file(WRITE ${OUTPUT} "${output}")
