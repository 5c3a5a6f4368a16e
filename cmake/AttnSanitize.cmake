# ATTN_SANITIZE for everything below, and attn_sanitize_parsers() for the code that reads foreign
# bytes. Undefined-behaviour checks slow a vector kernel thirty times, so kernels get addresses only.
if(ATTN_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address -fno-omit-frame-pointer)
  # The runtime of both, so that parsers can be checked for undefined behaviour too.
  add_link_options(-fsanitize=address,undefined)
elseif(ATTN_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread)
  add_link_options(-fsanitize=thread)
elseif(ATTN_SANITIZE)
  message(FATAL_ERROR "ATTN_SANITIZE is '${ATTN_SANITIZE}', must be empty, address or thread")
endif()

# attn_sanitize_parsers(target room...): the target's sources of these rooms, also checked for
# undefined behaviour, any finding being fatal.
function(attn_sanitize_parsers target)
  if(NOT ATTN_SANITIZE STREQUAL "address")
    return()
  endif()
  get_target_property(sources ${target} SOURCES)
  foreach(room IN LISTS ARGN)
    set(of_room ${sources})
    list(FILTER of_room INCLUDE REGEX "/src/${room}/")
    set_property(SOURCE ${of_room} TARGET_DIRECTORY ${target} APPEND PROPERTY COMPILE_OPTIONS
      -fsanitize=undefined -fno-sanitize-recover=undefined)
  endforeach()
endfunction()
