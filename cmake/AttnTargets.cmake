# attn_library(name ROOMS room...): the library attn_<name>, alias attn::<name>, of the rooms under
# src/. Each room's CMakeLists.txt adds its sources with target_sources(${ATTN_LIBRARY} PRIVATE ...).
function(attn_library name)
  cmake_parse_arguments(ARG "" "" "ROOMS" ${ARGN})
  set(target attn_${name})
  add_library(${target})
  add_library(attn::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON
    CXX_EXTENSIONS OFF VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
  if(name STREQUAL "attn")
    set_target_properties(${target} PROPERTIES OUTPUT_NAME attn)
  endif()
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_include_directories(${target}
    PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
           $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
    PRIVATE ${PROJECT_SOURCE_DIR}/src)
  attn_warnings(${target})
  set(ATTN_LIBRARY ${target})
  foreach(room IN LISTS ARG_ROOMS)
    if(EXISTS ${PROJECT_SOURCE_DIR}/src/${room}/CMakeLists.txt)
      add_subdirectory(${PROJECT_SOURCE_DIR}/src/${room} ${PROJECT_BINARY_DIR}/src/${room})
    endif()
  endforeach()
endfunction()

# g++ 12 sees overlapping copies in "text" + std::string (GCC bug 105651).
function(attn_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wnon-virtual-dtor
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict> $<$<BOOL:${ATTN_WERROR}>:-Werror>)
endfunction()

# attn_test(name SOURCES file... [LIBRARIES target...] [LABELS label...]): one GoogleTest executable,
# its cases known to CTest one by one. Links attn::core; sees src/ so that rooms can be tested from
# inside. The label `slow` keeps a test out of the sanitizer runs, where it would take minutes.
function(attn_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBRARIES;LABELS" ${ARGN})
  add_executable(test_${name} ${ARG_SOURCES})
  target_link_libraries(test_${name} PRIVATE
    ${ARG_LIBRARIES} attn_core GTest::gtest GTest::gmock GTest::gtest_main)
  target_include_directories(test_${name} PRIVATE ${PROJECT_SOURCE_DIR}/src
    ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(test_${name} PRIVATE ATTN_ASSETS="${ATTN_ASSETS}"
    ATTN_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data")
  attn_warnings(test_${name})
  set(properties TIMEOUT 300)
  if(ARG_LABELS)
    list(APPEND properties LABELS "${ARG_LABELS}")
  endif()
  gtest_discover_tests(test_${name} DISCOVERY_TIMEOUT 60 PROPERTIES ${properties})
endfunction()

# attn_example(name [MODELS] [ARGS argument...]): examples/<name>.cpp, compiled, and run by CTest as
# example.<name>. Links attn::recurrent, or attn::attn with MODELS. An example that needs something that
# this machine lacks exits with 77: CTest then calls it skipped.
function(attn_example name)
  cmake_parse_arguments(ARG "MODELS" "" "ARGS" ${ARGN})
  if(ARG_MODELS AND NOT ATTN_MODELS)
    return()
  endif()
  add_executable(example_${name} ${name}.cpp)
  if(ARG_MODELS)
    target_link_libraries(example_${name} PRIVATE attn::attn)
  else()
    target_link_libraries(example_${name} PRIVATE attn::recurrent)
  endif()
  attn_warnings(example_${name})
  if(ATTN_TESTS)
    add_test(NAME example.${name} COMMAND example_${name} ${ARG_ARGS})
    set_tests_properties(example.${name} PROPERTIES SKIP_RETURN_CODE 77 LABELS example TIMEOUT 300
      WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
  endif()
endfunction()
