// y[M, N] = x[M, K] @ W[N, K]^T (+ bias) for few rows M, at the speed at which W is read.
//
// The weights are read in place, once, as torch.nn.Linear stores them. A thread owns some rows of
// W. It takes COLUMNS of them at a time and multiplies them with all rows of x, so that a weight is
// fetched from memory once, and from the first cache for the other rows of x.
//
// Every y[m, n] is summed in the same order, whatever M is and however the work is split: LANES
// partial sums run along K, and are added pairwise at the end. A row alone and the same row among
// others have equal bits. Lossless greedy decoding rests on this.
//
// Only torch's stable ABI is used: its headers compile in a second.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "formats.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Weights of a row that are taken at a time, so that a few such rows stay in the first cache.
constexpr int64_t BLOCK_BYTES = 4096;
// Rows beyond which torch's own product is as fast.
constexpr int64_t MOST_ROWS = 48;
// Multiplications below which a second thread costs more than it saves.
constexpr int64_t THREAD_WORK = 32768;
// Into the second cache: more fetches can be under way there than in the first. Measured on an
// EPYC 9004: 27 ms instead of 38 for 540 MB, one thread.
constexpr int SECOND_CACHE = 2;

// Weights of COLUMNS rows of W and the same range of K in some rows of x.
template <class Format>
struct Range {
  const typename Format::Input* x;  // rows `stride` apart
  int64_t stride;
  const typename Format::Weight* w[Format::COLUMNS];
  int64_t length;  // whole steps
  int64_t ahead;   // elements from a weight to one that is needed soon
  bool first;      // whether the sums begin here
};

// Adds one of the PARTS vectors of a step to R x COLUMNS sums.
template <class Format, int R, int PART>
inline void add_part(const Range<Format>& range, int64_t k, Floats (&sums)[R][Format::COLUMNS]) {
  typename Format::Vector weights[Format::COLUMNS];
#pragma GCC unroll 8
  for (int c = 0; c < Format::COLUMNS; c++)
    weights[c] = Format::template weights<PART>(range.w[c] + k);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
    const auto inputs = Format::template inputs<PART>(range.x + r * range.stride + k);
#pragma GCC unroll 8
    for (int c = 0; c < Format::COLUMNS; c++)
      sums[r][c] = Format::add(sums[r][c], inputs, weights[c]);
  }
}

// Adds a step to R x COLUMNS sums.
template <class Format, int R, int PART = 0>
inline void add_parts(const Range<Format>& range, int64_t k, Floats (&sums)[R][Format::COLUMNS]) {
  add_part<Format, R, PART>(range, k, sums);
  if constexpr (PART + 1 < Format::PARTS) add_parts<Format, R, PART + 1>(range, k, sums);
}

// Adds the products of a range of K to a tile of R rows of x and COLUMNS rows of W.
template <class Format, int R>
void add_tile(const Range<Format> range, Floats* tile) {
  constexpr int COLUMNS = Format::COLUMNS;
  Floats sums[R][COLUMNS];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < COLUMNS; c++) sums[r][c] = range.first ? Floats{} : tile[r * COLUMNS + c];
  for (int64_t k = 0; k < range.length; k += Format::STEP) {
#pragma GCC unroll 8
    for (int c = 0; c < COLUMNS; c++)
      __builtin_prefetch(range.w[c] + k + range.ahead, 0, SECOND_CACHE);
    add_parts<Format, R>(range, k, sums);
  }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < COLUMNS; c++) tile[r * COLUMNS + c] = sums[r][c];
}

// Calls add_tile for 1 to R rows.
template <class Format, int R = Format::ROWS>
void add_rows(int rows, const Range<Format>& range, Floats* tile) {
  if (rows == R) return add_tile<Format, R>(range, tile);
  if constexpr (R > 1) add_rows<Format, R - 1>(rows, range, tile);
}

// A lane of the first or the second lane of every pair: in each quarter two of one vector, then two
// of another.
constexpr int pair_lane(int lane, int place) {
  const int inside = lane % 4;
  return lane - inside + 2 * (inside % 2) + place + (inside < 2 ? 0 : LANES);
}

// The sums of neighbouring lanes of two vectors. A shuffle that stays inside of quarters is cheap.
template <int... LANE>
inline Floats sum_pairs(Floats first, Floats second, std::integer_sequence<int, LANE...>) {
  return shuffle<pair_lane(LANE, 0)...>(first, second) +
         shuffle<pair_lane(LANE, 1)...>(first, second);
}

// The sums of four vectors, each of its own: pairs of lanes, pairs of these, then the quarters.
inline Four sum_four(const Floats* vectors) {
  constexpr std::make_integer_sequence<int, LANES> LANE_NUMBERS{};
  const Floats first = sum_pairs(vectors[0], vectors[1], LANE_NUMBERS);
  const Floats second = sum_pairs(vectors[2], vectors[3], LANE_NUMBERS);
  const Floats sums = sum_pairs(first, second, LANE_NUMBERS);
  const char* parts = reinterpret_cast<const char*>(&sums);
  Four total = load<Four>(parts);
  for (int part = 1; part < LANES / 4; part++) total += load<Four>(parts + part * sizeof(Four));
  return total;
}

// One weight matrix, its bias and where its products go.
struct Product {
  const void* weight;
  int64_t stride;  // elements between rows of the weight
  const void* bias;
  void* output;
  int64_t columns;  // N
};

struct Rows {
  const void* data;
  int64_t count;   // M
  int64_t length;  // K
  int64_t stride;  // elements between rows, filled with zeros up to whole steps
};

template <class Value>
inline float read(const void* from, int64_t index) {
  if constexpr (sizeof(Value) == 4) return static_cast<const float*>(from)[index];
  else return bfloat16_to_float(static_cast<const uint16_t*>(from)[index]);
}

template <class Value>
inline void write(void* to, int64_t index, float value) {
  if constexpr (sizeof(Value) == 4) static_cast<float*>(to)[index] = value;
  else static_cast<uint16_t*>(to)[index] = float_to_bfloat16(value);
}

// Adds up the products of all rows of x with COLUMNS rows of W into a tile in memory.
template <class Format>
void sum_block(const Rows& x, Range<Format> range, Floats* tile) {
  using Weight = typename Format::Weight;
  constexpr int COLUMNS = Format::COLUMNS;
  const auto* inputs = static_cast<const typename Format::Input*>(x.data);
  const int64_t ahead = range.ahead;
  const int64_t tiles = (x.count + Format::ROWS - 1) / Format::ROWS;
  const int64_t whole = x.length - x.length % Format::STEP;
  const int64_t block = tiles == 1 ? whole : int64_t(BLOCK_BYTES / sizeof(Weight));
  for (int64_t k = 0; k < whole; k += range.length) {
    range.length = std::min(block, whole - k);
    range.first = k == 0;
    for (int64_t t = 0; t < tiles; t++) {
      const int64_t row = t * x.count / tiles;
      const int64_t end = (t + 1) * x.count / tiles;
      range.x = inputs + row * x.stride + k;
      range.ahead = t + 1 == tiles ? ahead : 0;  // once is enough
      add_rows<Format>(int(end - row), range, tile + row * COLUMNS);
    }
    for (int c = 0; c < COLUMNS; c++) range.w[c] += range.length;
  }
  if (whole == x.length) return;

  // the last, incomplete step, filled with zeros
  Weight last[COLUMNS][Format::STEP] = {};
  for (int c = 0; c < COLUMNS; c++) {
    std::memcpy(last[c], range.w[c], (x.length - whole) * sizeof(Weight));
    range.w[c] = last[c];
  }
  range.length = Format::STEP;
  range.first = whole == 0;
  range.ahead = 0;
  for (int64_t row = 0; row < x.count; row++) {
    range.x = inputs + row * x.stride + whole;
    add_tile<Format, 1>(range, tile + row * COLUMNS);
  }
}

// The products of all rows of x with COLUMNS rows of a weight matrix.
template <class Format, class Output>
void multiply_block(const Rows& x, const Product& product, int64_t column, Floats* tile,
                    float* sums) {
  constexpr int COLUMNS = Format::COLUMNS;
  const auto* weights = static_cast<const typename Format::Weight*>(product.weight);
  const int valid = int(std::min<int64_t>(COLUMNS, product.columns - column));
  Range<Format> range;
  range.stride = x.stride;
  range.ahead = COLUMNS * product.stride;
  // Beyond the last row the last one is multiplied again; nothing of it is written.
  for (int c = 0; c < COLUMNS; c++)
    range.w[c] = weights + (column + std::min(c, valid - 1)) * product.stride;
  sum_block<Format>(x, range, tile);
  for (int64_t i = 0; i < x.count * COLUMNS; i += 4) {
    const Four totals = sum_four(tile + i);
    std::memcpy(sums + i, &totals, sizeof(totals));
  }
  for (int64_t row = 0; row < x.count; row++) {
    for (int c = 0; c < valid; c++) {
      float sum = sums[row * COLUMNS + c];
      if (product.bias != nullptr) sum += read<Output>(product.bias, column + c);
      write<Output>(product.output, row * product.columns + column + c, sum);
    }
  }
}

// The products of all rows of x with all rows of a weight matrix, in one parallel region.
template <class Format, class Output>
void multiply(const Rows& x, const Product& product) {
  constexpr int COLUMNS = Format::COLUMNS;
  const int64_t blocks = (product.columns + COLUMNS - 1) / COLUMNS;
  const int64_t grain = 1 + THREAD_WORK / (x.count * x.length * COLUMNS);
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t from, int64_t to) {
    const int64_t vectors = (x.count * COLUMNS + 3) / 4 * 4;
    std::unique_ptr<Floats[]> tile(new Floats[vectors]{});
    std::unique_ptr<float[]> sums(new float[vectors]);
    for (int64_t block = from; block < to; block++)
      multiply_block<Format, Output>(x, product, block * COLUMNS, tile.get(), sums.get());
  });
}

// The rows of x as a format reads them, where they do not lie so already.
template <class Format, class Value>
std::vector<typename Format::Input> prepare(const Tensor& x, Rows& rows) {
  using Input = typename Format::Input;
  const bool same = sizeof(Input) == sizeof(Value);
  rows.data = x.const_data_ptr();
  rows.stride = rows.length;
  if (same && rows.length % Format::STEP == 0 && x.is_contiguous()) return {};
  rows.stride = (rows.length + Format::STEP - 1) / Format::STEP * Format::STEP;
  std::vector<Input> prepared(rows.count * rows.stride);
  const auto sizes = x.sizes();
  const auto strides = x.strides();
  const int64_t last = x.dim() - 1;
  for (int64_t row = 0; row < rows.count; row++) {
    int64_t offset = 0;
    int64_t index = row;
    for (int64_t dim = last - 1; dim >= 0; dim--) {
      offset += index % sizes[dim] * strides[dim];
      index /= sizes[dim];
    }
    Input* to = prepared.data() + row * rows.stride;
    for (int64_t k = 0; k < rows.length; k++)
      Format::put(to, k, read<Value>(rows.data, offset + k * strides[last]));
  }
  rows.data = prepared.data();
  return prepared;
}

template <class Format, class Value>
void run(const Tensor& x, Rows rows, const Product& product) {
  const auto prepared = prepare<Format, Value>(x, rows);
  multiply<Format, Value>(rows, product);
}

Tensor make_output(const Tensor& x, int64_t columns) {
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = columns;
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t dim = sizes.size(); dim-- > 0;) {
    strides[dim] = stride;
    stride *= sizes[dim];
  }
  AtenTensorHandle handle;
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(),
                                                  strides.data(), dtype,
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

void check(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  STD_TORCH_CHECK(x.dim() >= 1 && weight.dim() == 2 && weight.size(1) == x.size(x.dim() - 1),
                  "eagle_hf::linear needs x [..., K] and weight [N, K], but the last dimension "
                  "of x and the second of weight differ");
  const auto dtype = x.scalar_type();
  STD_TORCH_CHECK((dtype == ScalarType::Float || dtype == ScalarType::BFloat16) &&
                      (weight.scalar_type() == dtype || weight.scalar_type() == ScalarType::Char),
                  "eagle_hf::linear needs x in float32 or in bfloat16 and weight in the same dtype "
                  "or in int8");
  STD_TORCH_CHECK(weight.size(1) > 0, "eagle_hf::linear needs at least one input feature");
  STD_TORCH_CHECK(weight.stride(1) == 1 || weight.size(1) == 1,
                  "eagle_hf::linear needs a weight whose rows are contiguous");
  if (!bias.has_value()) return;
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == weight.size(0) && bias->is_contiguous() &&
                      bias->scalar_type() == dtype,
                  "eagle_hf::linear needs a bias [N] in the dtype of x");
}

// torch's own product, which is faster for many rows.
Tensor multiply_many_rows(const Tensor& x, const Tensor& weight,
                          const std::optional<Tensor>& bias) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(x),
                                    torch::stable::detail::from(
                                        torch::stable::to(weight, x.scalar_type())),
                                    torch::stable::detail::from(bias)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::linear", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Tensor linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  check(x, weight, bias);
  const int64_t length = weight.size(1);
  const int64_t count = x.numel() / length;
  if (count > MOST_ROWS) return multiply_many_rows(x, weight, bias);
  Tensor output = make_output(x, weight.size(0));
  if (output.numel() == 0) return output;
  const Product product{weight.const_data_ptr(), weight.stride(0),
                        bias.has_value() ? bias->const_data_ptr() : nullptr,
                        output.mutable_data_ptr(), weight.size(0)};
  const Rows rows{nullptr, count, length, 0};
  const bool is_float = x.scalar_type() == ScalarType::Float;
  if (weight.scalar_type() == ScalarType::Char) {
    if (is_float) run<Int8, float>(x, rows, product);
    else run<Int8, uint16_t>(x, rows, product);
  } else if (is_float) {
    run<Float32, float>(x, rows, product);
  } else {
    run<BFloat16, uint16_t>(x, rows, product);
  }
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY(eagle_hf, library) {
  library.def("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(eagle_hf, CPU, library) {
  library.impl("linear", TORCH_BOX(&linear));
}
