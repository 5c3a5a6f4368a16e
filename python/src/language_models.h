// attn.LanguageModel, whose methods stand in two files.
#pragma once

#include <mutex>
#include <string>

#include "attn/language_model.h"
#include "bindings.h"

namespace attn::python {

// A context serves one caller at a time, and so does a model.
struct PyLanguageModel {
  LanguageModel model;
  std::mutex busy;
};

// "float32", "bfloat16" or "int8", of a key/value cache.
DType cache_type(const std::string& name);

// generate(), generate_batch() and what they return.
void bind_generation(nb::module_& m, nb::class_<PyLanguageModel>& model);

}  // namespace attn::python
