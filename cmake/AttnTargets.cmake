# attn_library(name ROOMS room...): the library attn_<name>, alias attn::<name>, of the rooms under
# src/. Each room's CMakeLists.txt adds its sources with target_sources(${ATTN_LIBRARY} PRIVATE ...).
function(attn_library name)
  cmake_parse_arguments(ARG "" "" "ROOMS" ${ARGN})
  set(target attn_${name})
  add_library(${target})
  add_library(attn::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON CXX_EXTENSIONS OFF
    VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
  if(name STREQUAL "attn")
    set_target_properties(${target} PROPERTIES OUTPUT_NAME attn)
  endif()
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_include_directories(${target}
    PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
    PRIVATE ${PROJECT_SOURCE_DIR}/src)
  attn_warnings(${target})
  set(ATTN_LIBRARY ${target})
  foreach(room IN LISTS ARG_ROOMS)
    if(EXISTS ${PROJECT_SOURCE_DIR}/src/${room}/CMakeLists.txt)
      add_subdirectory(${PROJECT_SOURCE_DIR}/src/${room} ${PROJECT_BINARY_DIR}/src/${room})
    endif()
  endforeach()
endfunction()

function(attn_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wnon-virtual-dtor
    $<$<BOOL:${ATTN_WERROR}>:-Werror>)
endfunction()

# attn_test(name SOURCES file... [LIBRARIES target...]): one GoogleTest executable, its cases known
# to CTest one by one. Links attn::core; sees src/ so that rooms can be tested from inside.
function(attn_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(test_${name} ${ARG_SOURCES})
  target_link_libraries(test_${name} PRIVATE attn_core ${ARG_LIBRARIES} GTest::gtest GTest::gmock GTest::gtest_main)
  target_include_directories(test_${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(test_${name} PRIVATE ATTN_ASSETS="${ATTN_ASSETS}" ATTN_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data")
  attn_warnings(test_${name})
  gtest_discover_tests(test_${name} DISCOVERY_TIMEOUT 60)
endfunction()
