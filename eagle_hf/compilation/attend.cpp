// Attention of few queries to a key-value cache, which is written and read in place.
//
// Queries that share a key head are taken together, so that a key is fetched once for all of them.
// Work is split by batch row, key head and chunk of CHUNK slots. Every chunk has its own softmax;
// they are merged at the end, always in the same order. So a query's result does not depend on how
// many other queries there are, nor on the number of threads.
//
// B batch, h query heads, g key heads, N tokens, L slots in use, D head width.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "formats.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Slots whose scores are held at a time.
constexpr int64_t CHUNK = 128;
// Multiplications below which a second thread costs more than it saves.
constexpr int64_t THREAD_WORK = 16384;

// Bytes of partial results that are held at a time; rows are taken in blocks that need no more.
constexpr int64_t PARTIAL_BYTES = int64_t(1) << 24;

typedef double Doubles __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t Ints __attribute__((vector_size(VECTOR_BYTES)));

// The numbers in which a stored value is computed with.
template <class Value>
struct Arithmetic {
  using Number = float;
  using Vector = Floats;
};
template <>
struct Arithmetic<double> {
  using Number = double;
  using Vector = Doubles;
};

template <class Vector>
inline void store_vector(void* to, Vector vector) {
  std::memcpy(to, &vector, sizeof(vector));
}

inline float widen(uint16_t bits) { return bfloat16_to_float(bits); }
inline float widen(float value) { return value; }
inline double widen(double value) { return value; }

inline void narrow_to(float value, float* to) { *to = value; }
inline void narrow_to(double value, double* to) { *to = value; }
inline void narrow_to(float value, uint16_t* to) { *to = float_to_bfloat16(value); }

// exp(x) for x <= 0, within rounding of float32; 0 for what is hidden, NaN for NaN.
inline Floats exponential(Floats x) {
  constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const Floats least = Floats{} - 87.0f;
  const Floats bounded = x < least ? least : x;  // NaN stays
  const Floats power = (bounded * 1.44269504088896341f + ROUND) - ROUND;
  const Floats rest = (bounded - power * 0.693359375f) + power * 2.12194440e-4f;
  Floats sum = Floats{} + 1.0f / 5040;
  sum = sum * rest + 1.0f / 720;
  sum = sum * rest + 1.0f / 120;
  sum = sum * rest + 1.0f / 24;
  sum = sum * rest + 1.0f / 6;
  sum = sum * rest + 0.5f;
  sum = sum * rest + 1.0f;
  sum = sum * rest + 1.0f;
  const Ints exponent = (__builtin_convertvector(power, Ints) + 127) << 23;
  return x < least ? Floats{} : sum * (Floats)exponent;
}
inline Doubles exponential(Doubles x) {
  Doubles result;
  for (size_t lane = 0; lane < sizeof(x) / sizeof(double); lane++) result[lane] = std::exp(x[lane]);
  return result;
}

// The sums of neighbouring lanes of two vectors: those of the first, then those of the second.
template <class Vector, int... LANE>
inline Vector sum_pairs(Vector first, Vector second, std::integer_sequence<int, LANE...>) {
  return shuffle<2 * LANE...>(first, second) + shuffle<2 * LANE + 1 ...>(first, second);
}

// Lane i of the result is the sum of the lanes of vectors[i]. Sums are added pairwise.
template <class Vector, class Number, int COUNT = sizeof(Vector) / sizeof(Number)>
inline Vector sum_each(Vector* vectors) {
  constexpr std::make_integer_sequence<int, COUNT> LANE_NUMBERS{};
#pragma GCC unroll 8
  for (int count = COUNT; count > 1; count /= 2)
#pragma GCC unroll 16
    for (int i = 0; i < count / 2; i++)
      vectors[i] = sum_pairs(vectors[2 * i], vectors[2 * i + 1], LANE_NUMBERS);
  return vectors[0];
}

struct Strides {
  int64_t batch;
  int64_t head;
  int64_t slot;
};

// Rows of some pairs of a batch row and a key head, which are attended to together.
struct Block {
  int64_t first_pair;
  int64_t pairs;
  int64_t first_row;
  int64_t rows;
};

// What the tasks of a call share. Rows are the queries of one key head: row r * N + n is token n
// of the r-th query head.
template <class Value>
struct Attention {
  using Number = typename Arithmetic<Value>::Number;
  using Vector = typename Arithmetic<Value>::Vector;
  static constexpr int64_t LANES = sizeof(Vector) / sizeof(Number);

  const Value* query;
  const Value* key;
  const Value* value;
  const bool* mask;
  Value* output;
  Strides query_strides;
  Strides key_strides;
  Strides value_strides;
  int64_t mask_batch;
  int64_t mask_row;
  int64_t batch;
  int64_t heads;  // g
  int64_t repeats;
  int64_t tokens;
  int64_t length;
  int64_t width;
  double scale;

  int64_t rows() const { return repeats * tokens; }
  int64_t padded() const { return (width + LANES - 1) / LANES * LANES; }
  int64_t chunks() const { return (length + CHUNK - 1) / CHUNK; }
  // Numbers that a chunk leaves behind for a row: the weighted values, the maximum and the sum.
  int64_t partial() const { return padded() + LANES; }
  int64_t row_size() const { return chunks() * partial(); }

  // `count` slots as numbers, rows filled with zeros up to whole vectors; in place where they
  // lie so already.
  const Number* widened(const Value* from, int64_t stride, int64_t count, int64_t& step,
                        std::vector<Number>& scratch) const {
    if constexpr (sizeof(Value) == sizeof(Number)) {
      if (padded() == width && count % LANES == 0) {
        step = stride;
        return from;
      }
    }
    step = padded();
    const int64_t whole = (count + LANES - 1) / LANES * LANES;
    scratch.assign(whole * step, Number(0));
    for (int64_t slot = 0; slot < count; slot++)
      for (int64_t d = 0; d < width; d++) scratch[slot * step + d] = widen(from[slot * stride + d]);
    return scratch.data();
  }

  // The scaled queries of a block, [rows, padded].
  std::vector<Number> queries(int64_t b, int64_t head, const Block& block) const {
    std::vector<Number> scaled(block.rows * padded(), Number(0));
    for (int64_t i = 0; i < block.rows; i++) {
      const int64_t row = block.first_row + i;
      const int64_t query_head = head * repeats + row / tokens;
      const Value* from = query + b * query_strides.batch + query_head * query_strides.head +
                          row % tokens * query_strides.slot;
      Number* to = scaled.data() + i * padded();
      for (int64_t d = 0; d < width; d++) to[d] = widen(from[d]) * Number(scale);
    }
    return scaled;
  }

  // The scores of one row with `count` slots; -inf where the row does not see a slot.
  void score(const Number* row, const Number* keys, int64_t step, const bool* seen, int64_t count,
             Number* scores) const {
    for (int64_t slot = 0; slot < count; slot += LANES) {
      Vector sums[LANES];
      const Number* block = keys + slot * step;
      for (int i = 0; i < LANES; i++) sums[i] = Vector{};
      for (int64_t d = 0; d < padded(); d += LANES) {
        const Vector part = load<Vector>(row + d);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) sums[i] += part * load<Vector>(block + i * step + d);
      }
      store_vector(scores + slot, sum_each<Vector, Number>(sums));
    }
    for (int64_t slot = 0; slot < count; slot++)
      if (!seen[slot]) scores[slot] = -std::numeric_limits<Number>::infinity();
  }

  // Scores become weights, exp(score - maximum). NaN stays: its weight, and so the sum, is NaN.
  void weigh(int64_t count, Number* scores, Number* result) const {
    constexpr Number HIDDEN = -std::numeric_limits<Number>::infinity();
    const int64_t whole = (count + LANES - 1) / LANES * LANES;
    for (int64_t slot = count; slot < whole; slot++) scores[slot] = HIDDEN;
    Vector most = load<Vector>(scores);
    for (int64_t slot = LANES; slot < whole; slot += LANES) {
      const Vector next = load<Vector>(scores + slot);
      most = next > most ? next : most;
    }
    Number maximum = most[0];
    for (int lane = 1; lane < LANES; lane++) maximum = std::max(maximum, Number(most[lane]));
    // where every slot is hidden, weights are zeros
    const Number shift = maximum == HIDDEN ? Number(0) : maximum;
    Vector sums = {};
    for (int64_t slot = 0; slot < whole; slot += LANES) {
      const Vector weights = exponential(load<Vector>(scores + slot) - shift);
      sums += weights;
      store_vector(scores + slot, weights);
    }
    Number sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
    result[0] = maximum;
    result[1] = sum;
  }

  // The values of `count` slots, weighted for R rows.
  template <int R>
  void add_values(const Number* weights, const Number* values, int64_t step, int64_t count,
                  Number* result) const {
    constexpr int PARTS = 2;
    int64_t d = 0;
    for (; d + PARTS * LANES <= padded(); d += PARTS * LANES)
      add_columns<R, PARTS>(weights, values + d, step, count, result + d);
    for (; d < padded(); d += LANES)
      add_columns<R, 1>(weights, values + d, step, count, result + d);
  }

  template <int R, int PARTS>
  void add_columns(const Number* weights, const Number* values, int64_t step, int64_t count,
                   Number* result) const {
    Vector sums[R][PARTS] = {};
    for (int64_t slot = 0; slot < count; slot++) {
      Vector part[PARTS];
#pragma GCC unroll 4
      for (int p = 0; p < PARTS; p++) part[p] = load<Vector>(values + slot * step + p * LANES);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; p++) sums[r][p] += weights[r * CHUNK + slot] * part[p];
    }
    for (int r = 0; r < R; r++)
      for (int p = 0; p < PARTS; p++) store_vector(result + r * partial() + p * LANES, sums[r][p]);
  }

  // One chunk of a block of one key head: a partial result [rows, partial].
  void attend_chunk(int64_t b, int64_t head, const Block& block, int64_t chunk,
                    Number* result) const {
    const int64_t first = chunk * CHUNK;
    const int64_t count = std::min(CHUNK, length - first);
    const Value* key_from =
        key + b * key_strides.batch + head * key_strides.head + first * key_strides.slot;
    const Value* value_from =
        value + b * value_strides.batch + head * value_strides.head + first * value_strides.slot;
    std::vector<Number> key_scratch;
    std::vector<Number> value_scratch;
    int64_t key_step;
    int64_t value_step;
    const Number* keys = widened(key_from, key_strides.slot, count, key_step, key_scratch);
    const Number* values =
        widened(value_from, value_strides.slot, count, value_step, value_scratch);
    const std::vector<Number> scaled = queries(b, head, block);
    std::vector<Number> weights(block.rows * CHUNK);
    for (int64_t row = 0; row < block.rows; row++) {
      const int64_t token = (block.first_row + row) % tokens;
      const bool* seen = mask + b * mask_batch + token * mask_row + first;
      Number* scores = weights.data() + row * CHUNK;
      score(scaled.data() + row * padded(), keys, key_step, seen, count, scores);
      weigh(count, scores, result + row * partial() + padded());
    }
    constexpr int R = 4;
    int64_t row = 0;
    for (; row + R <= block.rows; row += R)
      add_values<R>(weights.data() + row * CHUNK, values, value_step, count,
                    result + row * partial());
    for (; row < block.rows; row++)
      add_values<1>(weights.data() + row * CHUNK, values, value_step, count,
                    result + row * partial());
  }

  // The chunks of one row, `apart` numbers from each to the next, under one softmax.
  void merge(int64_t b, int64_t head, int64_t row, const Number* results, int64_t apart) const {
    Number maximum = -std::numeric_limits<Number>::infinity();
    for (int64_t c = 0; c < chunks(); c++)
      maximum = std::max(maximum, results[c * apart + padded()]);
    std::vector<Number> total(padded(), Number(0));
    Number sum = 0;
    for (int64_t c = 0; c < chunks(); c++) {
      const Number* part = results + c * apart;
      if (part[padded() + 1] == 0) continue;
      const Number factor = std::exp(part[padded()] - maximum);
      sum += factor * part[padded() + 1];
      for (int64_t d = 0; d < width; d++) total[d] += factor * part[d];
    }
    const int64_t query_head = head * repeats + row / tokens;
    Value* to = output + ((b * tokens + row % tokens) * heads * repeats + query_head) * width;
    for (int64_t d = 0; d < width; d++) narrow_to(sum == 0 ? Number(0) : total[d] / sum, to + d);
  }

  // The partial results of a block are [pairs, chunks, rows, partial].
  void run_block(const Block& block, Number* results) const {
    const int64_t size = block.rows * partial();
    const int64_t work = block.rows * std::min(CHUNK, length) * width;
    const int64_t tasks = block.pairs * chunks();
    torch::stable::parallel_for(0, tasks, grain(work), [&](int64_t from, int64_t to) {
      for (int64_t task = from; task < to; task++) {
        const int64_t pair = block.first_pair + task / chunks();
        attend_chunk(pair / heads, pair % heads, block, task % chunks(), results + task * size);
      }
    });
    const int64_t merges = block.pairs * block.rows;
    torch::stable::parallel_for(0, merges, grain(row_size()), [&](int64_t from, int64_t to) {
      for (int64_t task = from; task < to; task++) {
        const int64_t pair = task / block.rows;
        const int64_t row = task % block.rows;
        const int64_t number = block.first_pair + pair;
        merge(number / heads, number % heads, block.first_row + row,
              results + pair * chunks() * size + row * partial(), size);
      }
    });
  }

  // How many tasks of so much work are worth a thread.
  static int64_t grain(int64_t work) { return 1 + THREAD_WORK / std::max<int64_t>(work, 1); }

  void run() const {
    const int64_t pairs = batch * heads;
    const int64_t row_bytes = row_size() * int64_t(sizeof(Number));
    const int64_t held = std::max<int64_t>(PARTIAL_BYTES / std::max<int64_t>(row_bytes, 1), 1);
    const int64_t most_rows = std::min(rows(), held);
    const int64_t most_pairs = std::clamp<int64_t>(held / rows(), 1, pairs);
    std::unique_ptr<Number[]> results(new Number[most_pairs * most_rows * row_size()]);
    for (int64_t pair = 0; pair < pairs; pair += most_pairs) {
      for (int64_t row = 0; row < rows(); row += most_rows) {
        run_block({pair, std::min(most_pairs, pairs - pair), row,
                   std::min(most_rows, rows() - row)},
                  results.get());
      }
    }
  }
};

Strides strides_of(const Tensor& tensor) {
  return {tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

template <class Value>
void run(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
         double scale, Tensor& output) {
  Attention<Value> call;
  call.query = static_cast<const Value*>(query.const_data_ptr());
  call.key = static_cast<const Value*>(key.const_data_ptr());
  call.value = static_cast<const Value*>(value.const_data_ptr());
  call.mask = static_cast<const bool*>(mask.const_data_ptr());
  call.output = static_cast<Value*>(output.mutable_data_ptr());
  call.query_strides = strides_of(query);
  call.key_strides = strides_of(key);
  call.value_strides = strides_of(value);
  call.mask_batch = mask.size(0) == 1 ? 0 : mask.stride(0);
  call.mask_row = mask.stride(2);
  call.batch = query.size(0);
  call.heads = key.size(1);
  call.repeats = query.size(1) / key.size(1);
  call.tokens = query.size(2);
  call.length = key.size(2);
  call.width = query.size(3);
  call.scale = scale;
  call.run();
}

bool has_contiguous_rows(const Tensor& tensor) {
  return tensor.stride(3) == 1 || tensor.size(3) == 1;
}

void check_attend(const Tensor& query, const Tensor& key, const Tensor& value,
                  const Tensor& mask) {
  const auto dtype = query.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double ||
                      dtype == ScalarType::BFloat16,
                  "eagle_hf::attend computes in float32, float64 and bfloat16");
  STD_TORCH_CHECK(key.scalar_type() == dtype && value.scalar_type() == dtype &&
                      mask.scalar_type() == ScalarType::Bool,
                  "eagle_hf::attend needs query, key and value of one dtype and a bool mask");
  STD_TORCH_CHECK(query.dim() == 4 && key.dim() == 4 && value.dim() == 4 && mask.dim() == 4,
                  "eagle_hf::attend needs query, key, value and mask with 4 dimensions");
  for (int64_t dim = 0; dim < 4; dim++)
    STD_TORCH_CHECK(key.size(dim) == value.size(dim),
                    "eagle_hf::attend needs key and value of the same sizes");
  STD_TORCH_CHECK(key.size(0) == query.size(0) && key.size(3) == query.size(3),
                  "eagle_hf::attend needs query and key of one batch size and one head width");
  STD_TORCH_CHECK(key.size(1) > 0 && query.size(1) % key.size(1) == 0,
                  "eagle_hf::attend needs query heads that are a multiple of the key heads");
  STD_TORCH_CHECK((mask.size(0) == 1 || mask.size(0) == query.size(0)) && mask.size(1) == 1 &&
                      mask.size(2) == query.size(2) && mask.size(3) == key.size(2),
                  "eagle_hf::attend needs a mask [1 or B, 1, N, L]");
  STD_TORCH_CHECK(has_contiguous_rows(query) && has_contiguous_rows(key) &&
                      has_contiguous_rows(value) && has_contiguous_rows(mask),
                  "eagle_hf::attend needs tensors whose last dimension is contiguous");
}

// query [B, h, N, D]; key, value [B, g, L, D]; mask bool [1 or B, 1, N, L]. The output is
// [B, h, N, D] and lies in memory as [B, N, h, D], as the layer behind it reads it. A token that
// sees nothing gets zeros.
Tensor attend(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
              double scale) {
  check_attend(query, key, value, mask);
  const auto dtype = query.scalar_type();
  Tensor output = torch::stable::new_empty(
      query, {query.size(0), query.size(2), query.size(1), query.size(3)});
  if (output.numel() == 0) return torch::stable::transpose(output, 1, 2);
  if (dtype == ScalarType::Float) run<float>(query, key, value, mask, scale, output);
  else if (dtype == ScalarType::Double) run<double>(query, key, value, mask, scale, output);
  else run<uint16_t>(query, key, value, mask, scale, output);
  return torch::stable::transpose(output, 1, 2);
}

int64_t element_bytes(const Tensor& tensor) {
  const auto dtype = tensor.scalar_type();
  if (dtype == ScalarType::Double) return 8;
  return dtype == ScalarType::Float ? 4 : 2;
}

void check_store(const Tensor& buffer, const Tensor& states, const Tensor& slots) {
  const auto dtype = states.scalar_type();
  STD_TORCH_CHECK(buffer.scalar_type() == dtype &&
                      (dtype == ScalarType::Float || dtype == ScalarType::Double ||
                       dtype == ScalarType::BFloat16 || dtype == ScalarType::Half),
                  "eagle_hf::store needs buffer and states of one floating-point dtype");
  STD_TORCH_CHECK(buffer.dim() == 4 && states.dim() == 4 && slots.dim() == 2,
                  "eagle_hf::store needs buffers and states with 4 dimensions and slots with 2");
  STD_TORCH_CHECK(has_contiguous_rows(buffer) && has_contiguous_rows(states),
                  "eagle_hf::store needs tensors whose last dimension is contiguous");
  STD_TORCH_CHECK(slots.scalar_type() == ScalarType::Long && slots.size(0) == states.size(0) &&
                      slots.size(1) == states.size(2) && buffer.size(1) == states.size(1) &&
                      buffer.size(0) == states.size(0) && buffer.size(3) == states.size(3),
                  "eagle_hf::store was given sizes that do not fit together");
  const auto* numbers = static_cast<const int64_t*>(slots.const_data_ptr());
  for (int64_t b = 0; b < slots.size(0); b++) {
    for (int64_t n = 0; n < slots.size(1); n++) {
      const int64_t slot = numbers[b * slots.stride(0) + n * slots.stride(1)];
      STD_TORCH_CHECK(0 <= slot && slot < buffer.size(2),
                      "eagle_hf::store was given a slot outside of the buffer");
    }
  }
}

// Copies states [B, g, N, D] to the slots [B, N] of a buffer [B, g, T, D].
void copy_states(Tensor& buffer, const Tensor& states, const Tensor& slots) {
  const int64_t bytes = element_bytes(states);
  const Strides to = strides_of(buffer);
  const Strides from = strides_of(states);
  const auto* numbers = static_cast<const int64_t*>(slots.const_data_ptr());
  auto* target = static_cast<char*>(buffer.mutable_data_ptr());
  const auto* source = static_cast<const char*>(states.const_data_ptr());
  for (int64_t b = 0; b < states.size(0); b++) {
    for (int64_t n = 0; n < states.size(2); n++) {
      const int64_t slot = numbers[b * slots.stride(0) + n * slots.stride(1)];
      for (int64_t head = 0; head < states.size(1); head++) {
        const int64_t place = b * to.batch + head * to.head + slot * to.slot;
        const int64_t origin = b * from.batch + head * from.head + n * from.slot;
        std::memcpy(target + place * bytes, source + origin * bytes, states.size(3) * bytes);
      }
    }
  }
}

// Nothing is written unless all of it can be.
void store(Tensor keys, Tensor values, const Tensor& new_keys, const Tensor& new_values,
           const Tensor& slots) {
  check_store(keys, new_keys, slots);
  check_store(values, new_values, slots);
  copy_states(keys, new_keys, slots);
  copy_states(values, new_values, slots);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(eagle_hf, library) {
  library.def("attend(Tensor query, Tensor key, Tensor value, Tensor mask, float scale) -> Tensor");
  library.def(
      "store(Tensor(a!) keys, Tensor(b!) values, Tensor new_keys, Tensor new_values, Tensor slots) "
      "-> ()");
}

STABLE_TORCH_LIBRARY_IMPL(eagle_hf, CPU, library) {
  library.impl("attend", TORCH_BOX(&attend));
  library.impl("store", TORCH_BOX(&store));
}
