#include "arrays.h"

#include <nanobind/stl/string.h>

#include <cstring>
#include <new>
#include <stdexcept>

namespace attn::python {

namespace {

constexpr std::align_val_t kAlignment{64};
using Code = nb::dlpack::dtype_code;

std::string dtype_name(const nb::dlpack::dtype& type) {
  const std::string bits = std::to_string(type.bits);
  switch (static_cast<Code>(type.code)) {
    case Code::Int: return "int" + bits;
    case Code::UInt: return "uint" + bits;
    case Code::Float: return "float" + bits;
    case Code::Bfloat: return "bfloat" + bits;
    case Code::Complex: return "complex" + bits;
    case Code::Bool: return "bool";
    default: return "an unknown type";
  }
}

DType float_type(const AnyArray& array, const std::string& what) {
  const nb::dlpack::dtype type = array.dtype();
  if (static_cast<Code>(type.code) == Code::Float && type.lanes == 1) {
    if (type.bits == 32) return DType::f32;
    if (type.bits == 64) return DType::f64;
    if (type.bits == 16) return DType::f16;
  }
  if (static_cast<Code>(type.code) == Code::Bfloat && type.bits == 16) return DType::bf16;
  throw std::invalid_argument(what + " is " + dtype_name(type) +
                              ", must be float32, float64, bfloat16 or float16");
}

nb::dlpack::dtype dlpack_type(DType type) {
  switch (type) {
    case DType::f64: return nb::dtype<double>();
    case DType::f16: return {static_cast<std::uint8_t>(Code::Float), 16, 1};
    case DType::bf16: return {static_cast<std::uint8_t>(Code::Bfloat), 16, 1};
    default: return nb::dtype<float>();
  }
}

double as_double(const ConstTensor& view, std::int64_t i) {
  switch (view.dtype) {
    case DType::f64: return static_cast<const double*>(view.data)[i];
    case DType::f16: return to_float(static_cast<const Float16*>(view.data)[i]);
    case DType::bf16: return to_float(static_cast<const BFloat16*>(view.data)[i]);
    default: return static_cast<const float*>(view.data)[i];
  }
}

Output fresh(Kind kind, const nb::dlpack::dtype& element,
             const std::vector<std::int64_t>& dimensions) {
  Output out;
  out.kind = kind;
  out.element = element;
  Shape shape{1, 1, 1, 1};
  std::size_t count = 1;
  for (std::size_t i = 0; i < dimensions.size(); ++i) {
    shape[i] = dimensions[i];
    out.shape.push_back(static_cast<std::size_t>(dimensions[i]));
    count *= out.shape.back();
  }
  // One element at least, so that an empty array has an address too.
  void* memory = ::operator new((count == 0 ? 1 : count) * (element.bits / 8), kAlignment);
  out.owner = nb::capsule(memory, [](void* p) noexcept { ::operator delete(p, kAlignment); });
  out.view = {memory, DType::f32, shape, strides_bhld(shape)};
  return out;
}

// Missing dimensions come in front. Strides along 0 or 1 elements mean nothing, and frameworks give
// any: they become what a dense array has.
Input seen_as_tensor(AnyArray array, const std::string& what) {
  Input input{std::move(array), {}};
  input.view.dtype = float_type(input.array, what);
  input.view.data = input.array.data();
  const std::size_t missing = 4 - input.array.ndim();
  for (std::size_t i = 0; i < 4; ++i) {
    const bool real = i >= missing;
    input.view.shape[i] = real ? static_cast<std::int64_t>(input.array.shape(i - missing)) : 1;
    input.view.strides[i] = real ? input.array.stride(i - missing) : 0;
  }
  if (input.view.size() == 0) {
    // PyTorch's empty tensors have no address, which here would mean: not given.
    static constexpr double kNothing = 0;
    input.view.data = &kNothing;
    input.view.strides = strides_bhld(input.view.shape);
  }
  if (input.view.shape[3] == 1) input.view.strides[3] = 1;
  return input;
}

template <class T>
T element(const AnyArray& array, std::int64_t offset) {
  const void* data = array.data();
  const nb::dlpack::dtype type = array.dtype();
  const auto at = [&]<class S>(S) { return static_cast<T>(static_cast<const S*>(data)[offset]); };
  switch (static_cast<Code>(type.code)) {
    case Code::Bool: return at(std::uint8_t{});
    case Code::Int:
      if (type.bits == 8) return at(std::int8_t{});
      if (type.bits == 16) return at(std::int16_t{});
      if (type.bits == 32) return at(std::int32_t{});
      return at(std::int64_t{});
    case Code::UInt:
      if (type.bits == 8) return at(std::uint8_t{});
      if (type.bits == 16) return at(std::uint16_t{});
      if (type.bits == 32) return at(std::uint32_t{});
      return at(std::uint64_t{});
    case Code::Bfloat: return static_cast<T>(to_float(static_cast<const BFloat16*>(data)[offset]));
    default: break;
  }
  switch (type.bits) {
    case 16: return static_cast<T>(to_float(static_cast<const Float16*>(data)[offset]));
    case 32: return at(float{});
    default: return at(double{});
  }
}

bool is_integer(const AnyArray& array) {
  const auto code = static_cast<Code>(array.dtype().code);
  return (code == Code::Int || code == Code::UInt) && array.dtype().lanes == 1;
}

bool is_array(nb::handle object) { return nb::ndarray_check(object); }

// Why an array's memory cannot be read, as far as it tells.
std::string unreadable(nb::handle object) {
  const nb::object dtype = nb::getattr(object, "dtype", nb::none());
  if (nb::hasattr(dtype, "isnative") && !nb::cast<bool>(dtype.attr("isnative"))) {
    return " in another byte order than this machine's: pass x.astype(x.dtype.newbyteorder(\"=\"))";
  }
  if (kind_of(object) == Kind::torch &&
      nb::cast<std::string>(object.attr("device").attr("type")) == "cpu") {
    return " without dense memory of its own: sparse, or inside of torch.func's transforms (vmap, "
           "jvp), outside of which attn has to be called";
  }
  return " whose memory cannot be read here (it must be on the CPU)";
}

}  // namespace

std::string class_name(nb::handle object) {
  return nb::cast<std::string>(nb::handle(object.type()).attr("__qualname__"));
}

Kind kind_of(nb::handle object) {
  const nb::handle type = object.type();
  for (nb::handle base : nb::borrow<nb::tuple>(type.attr("__mro__"))) {
    const auto module = nb::cast<std::string>(base.attr("__module__"));
    const std::string package = module.substr(0, module.find('.'));
    if (package == "numpy") return Kind::numpy;
    if (package == "torch") return Kind::torch;
    if (package == "jaxlib" || package == "jax") return Kind::jax;
  }
  return Kind::numpy;
}

AnyArray import_array(nb::handle object, const std::string& what, std::size_t dimensions) {
  if (!is_array(object)) {
    throw nb::type_error((what + " is a " + class_name(object) +
                          ", must be an array (NumPy, PyTorch or another with DLPack)")
                             .c_str());
  }
  if (nb::hasattr(object, "requires_grad") && nb::cast<bool>(object.attr("requires_grad"))) {
    throw std::invalid_argument(what +
                                " requires gradients, which only attn.torch tracks: pass "
                                "its detach()");
  }
  AnyArray array;
  if (!nb::try_cast(object, array)) {
    PyErr_Clear();  // of what was tried
    throw std::invalid_argument(what + " is a " + class_name(object) + unreadable(object));
  }
  if (array.device_type() != nb::device::cpu::value) {
    throw std::invalid_argument(what + " is not in the CPU's memory: pass its cpu()");
  }
  if (array.ndim() > dimensions) {
    throw std::invalid_argument(what + " has " + std::to_string(array.ndim()) +
                                " dimensions, must have at most " + std::to_string(dimensions));
  }
  return array;
}

Input import_tensor(nb::handle object, const std::string& what) {
  AnyArray array = import_array(object, what, 4);
  if (array.ndim() != 4) {
    throw std::invalid_argument(what + " has " + std::to_string(array.ndim()) +
                                " dimensions, must have 4: [batch, heads, length, width]");
  }
  return seen_as_tensor(std::move(array), what);
}

Input import_broadcast(nb::handle object, const std::string& what) {
  return seen_as_tensor(import_array(object, what, 4), what);
}

Input import_lse(nb::handle object, const std::string& what) {
  AnyArray array = import_array(object, what, 4);
  if (array.ndim() == 4) return seen_as_tensor(std::move(array), what);
  if (array.ndim() != 3) {
    throw std::invalid_argument(what + " has " + std::to_string(array.ndim()) +
                                " dimensions, must have 3: [batch, heads, length]");
  }
  Input input{std::move(array), {}};
  input.view.dtype = float_type(input.array, what);
  input.view.data = input.array.data();
  for (std::size_t i = 0; i < 3; ++i) {
    input.view.shape[i] = static_cast<std::int64_t>(input.array.shape(i));
    input.view.strides[i] = input.array.stride(i);
  }
  input.view.shape[3] = input.view.strides[3] = 1;
  return input;
}

Input import_heads(nb::handle object, const std::string& what) {
  AnyArray array = import_array(object, what, 4);
  if (array.ndim() != 1 && array.ndim() != 2) return seen_as_tensor(std::move(array), what);
  const bool rows = array.ndim() == 2;
  Input input{std::move(array), {}};
  input.view.dtype = float_type(input.array, what);
  input.view.data = input.array.data();
  input.view.shape = {1, static_cast<std::int64_t>(input.array.shape(0)), 1,
                      rows ? static_cast<std::int64_t>(input.array.shape(1)) : 1};
  input.view.strides = {0, input.array.stride(0), 0, rows ? input.array.stride(1) : 1};
  if (input.view.shape[3] == 1) input.view.strides[3] = 1;
  return input;
}

std::vector<std::int64_t> Input::dimensions() const {
  std::vector<std::int64_t> all;
  for (std::size_t i = 0; i < array.ndim(); ++i)
    all.push_back(static_cast<std::int64_t>(array.shape(i)));
  return all;
}

Doubles as_doubles(const ConstTensor& view) {
  Doubles copy;
  copy.values.reserve(static_cast<std::size_t>(view.size()));
  for (std::int64_t b = 0; b < view.batch(); ++b) {
    for (std::int64_t h = 0; h < view.heads(); ++h) {
      for (std::int64_t l = 0; l < view.length(); ++l) {
        const std::int64_t at = view.offset(b, h, l);
        for (std::int64_t d = 0; d < view.width(); ++d) {
          copy.values.push_back(as_double(view, at + d * view.strides[3]));
        }
      }
    }
  }
  copy.view = {copy.values.data(), view.shape};
  return copy;
}

std::vector<Doubles> widen(std::initializer_list<ConstTensor*> views) {
  std::vector<Doubles> copies;
  for (ConstTensor* view : views) {
    if (view->empty()) continue;
    copies.push_back(as_doubles(*view));
    *view = copies.back().view;
  }
  return copies;
}

Output import_output(nb::handle object, const std::string& what, DType type, const Shape& shape) {
  Input in = import_tensor(object, what);
  nb::ndarray<> writable;
  if (!nb::try_cast(object, writable)) {
    throw std::invalid_argument(what + " cannot be written to");
  }
  const bool fits = in.view.dtype == type || (size_of(type) == 2 && in.view.dtype == DType::f32);
  if (!fits || in.view.shape != shape) {
    throw std::invalid_argument(what + " is " + name(in.view.dtype) + " " +
                                to_string(in.view.shape) + ", must be " + name(type) + " " +
                                to_string(shape));
  }
  Output out;
  out.view = {writable.data(), in.view.dtype, shape, in.view.strides};
  out.given = nb::borrow(object);
  return out;
}

Output new_output(Kind kind, DType type, const std::vector<std::int64_t>& dimensions) {
  Output out = fresh(kind, dlpack_type(type), dimensions);
  out.view.dtype = type;
  return out;
}

Output new_copy(Kind kind, const Input& input) {
  const ConstTensor& from = input.view;
  Output out = new_output(kind, from.dtype, input.dimensions());
  out.view.shape = from.shape;
  out.view.strides = strides_bhld(from.shape);
  const auto bytes = static_cast<std::int64_t>(size_of(from.dtype));
  auto* to = static_cast<char*>(out.view.data);
  for (std::int64_t b = 0; b < from.batch(); ++b) {
    for (std::int64_t h = 0; h < from.heads(); ++h) {
      for (std::int64_t l = 0; l < from.length(); ++l) {
        for (std::int64_t d = 0; d < from.width(); ++d, to += bytes) {
          const std::int64_t at = from.offset(b, h, l) + d * from.strides[3];
          std::memcpy(to, static_cast<const char*>(from.data) + at * bytes,
                      static_cast<std::size_t>(bytes));
        }
      }
    }
  }
  return out;
}

Output new_integers(Kind kind, const std::vector<std::int64_t>& dimensions) {
  return fresh(kind, nb::dtype<std::int32_t>(), dimensions);
}

nb::object Output::object() const {
  if (given.is_valid()) return given;
  const auto exported = [&]<class Framework>(Framework) {
    return nb::cast(
        nb::ndarray<Framework>(view.data, shape.size(), shape.data(), owner, nullptr, element));
  };
  switch (kind) {
    case Kind::torch: return exported(nb::pytorch{});
    case Kind::jax: return exported(nb::jax{});
    case Kind::numpy: break;
  }
  return exported(nb::numpy{});
}

std::vector<std::int64_t> import_integers(nb::handle object, const std::string& what) {
  std::vector<std::int64_t> values;
  if (object.is_none()) return values;
  if (is_array(object)) {
    const AnyArray array = import_array(object, what, 1);
    if (!is_integer(array)) {
      throw std::invalid_argument(what + " is " + dtype_name(array.dtype()) + ", must be integers");
    }
    if (array.ndim() == 0) return {element<std::int64_t>(array, 0)};
    for (std::size_t i = 0; i < array.shape(0); ++i) {
      values.push_back(
          element<std::int64_t>(array, static_cast<std::int64_t>(i) * array.stride(0)));
    }
    return values;
  }
  if (PyLong_Check(object.ptr())) return {nb::cast<std::int64_t>(object)};
  const auto refuse = [&] {
    PyErr_Clear();
    throw nb::type_error((what + " must be integers, in a sequence or an array").c_str());
  };
  if (!PySequence_Check(object.ptr())) refuse();
  for (nb::handle item : object) {
    const nb::object integer = nb::steal(PyNumber_Index(item.ptr()));
    std::int64_t value = 0;
    if (!integer.is_valid() || !nb::try_cast(integer, value)) refuse();
    values.push_back(value);
  }
  return values;
}

std::vector<float> import_floats(nb::handle object, const std::string& what,
                                 std::size_t dimensions) {
  std::vector<float> values;
  if (object.is_none()) return values;
  if (!is_array(object)) {
    nb::object numpy = nb::module_::import_("numpy");
    nb::object array;
    try {
      array = numpy.attr("asarray")(object, numpy.attr("float32"));
    } catch (nb::python_error&) {
      throw nb::type_error((what + " must be numbers, in a sequence or an array").c_str());
    }
    return import_floats(array, what, dimensions);
  }
  const AnyArray array = import_array(object, what, dimensions);
  if (!is_integer(array)) float_type(array, what);
  if (array.ndim() == 0) return {element<float>(array, 0)};
  const std::size_t rows = array.ndim() == 2 ? array.shape(0) : 1;
  const std::size_t columns = array.shape(array.ndim() - 1);
  const std::int64_t row_stride = array.ndim() == 2 ? array.stride(0) : 0;
  const std::int64_t stride = array.stride(array.ndim() - 1);
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      values.push_back(element<float>(array, static_cast<std::int64_t>(i) * row_stride +
                                                 static_cast<std::int64_t>(j) * stride));
    }
  }
  return values;
}

}  // namespace attn::python
