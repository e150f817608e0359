// Vectors of float32, and how weights of each dtype are multiplied with x.
//
// The vectors are those of the compiler (GCC's vector extensions), so that the same lines serve
// AVX-512, AVX2 and NEON.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif
constexpr int LANES = VECTOR_BYTES / sizeof(float);

typedef float Floats __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t Words __attribute__((vector_size(VECTOR_BYTES)));
typedef float Four __attribute__((vector_size(16)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));

template <class Vector>
inline Vector load(const void* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}

// Lanes of two vectors by number, those of the second behind those of the first. Clang lacks GCC's
// name for it, and GCC 11 lacks clang's.
template <int... LANE, class Vector>
inline Vector shuffle(Vector first, Vector second) {
#if defined(__clang__)
  return __builtin_shufflevector(first, second, LANE...);
#else
  using Index = std::conditional_t<sizeof(first[0]) == 4, int32_t, int64_t>;
  typedef Index Indices __attribute__((vector_size(VECTOR_BYTES)));
  return __builtin_shuffle(first, second, Indices{LANE...});
#endif
}

inline float bfloat16_to_float(uint16_t bits) {
  const uint32_t word = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

// Rounded to nearest, ties to even, as torch rounds.
inline uint16_t float_to_bfloat16(float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof(word));
  if ((word & 0x7fffffff) > 0x7f800000) return 0x7fc0;  // NaN
  return uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

// A format says how a step of weights is multiplied with the same step of x, in PARTS vectors. Its
// tile of ROWS times COLUMNS sums fits into the registers: 32 with AVX-512 and NEON, 16 with AVX2.
#if defined(__AVX__) && !defined(__AVX512F__)
constexpr bool FEW_REGISTERS = true;
#else
constexpr bool FEW_REGISTERS = false;
#endif

struct Float32 {
  using Weight = float;
  using Input = float;  // what a prepared row of x consists of
  using Vector = Floats;
  static constexpr int PARTS = 1;
  static constexpr int STEP = LANES;
  static constexpr int ROWS = 4;
  static constexpr int COLUMNS = FEW_REGISTERS ? 3 : 6;

  template <int PART>
  static Vector weights(const Weight* from) { return load<Floats>(from); }
  template <int PART>
  static Vector inputs(const Input* from) { return load<Floats>(from); }
  static Floats add(Floats sums, Vector x, Vector w) { return sums + x * w; }

  static void put(Input* row, int64_t k, float value) { row[k] = value; }
};

// LANES bytes as whole numbers. Of the compilers only clang finds the instructions by itself.
inline Floats widen_bytes(const int8_t* from) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load<__m128i>(from)));
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#else
  return __builtin_convertvector(load<Bytes>(from), Floats);
#endif
}

// Whole numbers, widened to float32. A step is a line of the cache with AVX-512.
struct Int8 {
  using Weight = int8_t;
  using Input = float;
  using Vector = Floats;
  static constexpr int PARTS = 4;
  static constexpr int STEP = PARTS * LANES;
  static constexpr int ROWS = 4;
  static constexpr int COLUMNS = FEW_REGISTERS ? 2 : 6;

  template <int PART>
  static Vector weights(const Weight* from) {
    return widen_bytes(from + PART * LANES);
  }
  template <int PART>
  static Vector inputs(const Input* from) { return load<Floats>(from + PART * LANES); }
  static Floats add(Floats sums, Vector x, Vector w) { return sums + x * w; }

  static void put(Input* row, int64_t k, float value) { row[k] = value; }
};

#if defined(__AVX512BF16__)
// The processor multiplies pairs of bfloat16 and adds them to float32 sums.
struct BFloat16 {
  using Weight = uint16_t;
  using Input = uint16_t;
  using Vector = __m512bh;
  static constexpr int PARTS = 1;
  static constexpr int STEP = 2 * LANES;
  static constexpr int ROWS = 4;
  static constexpr int COLUMNS = 6;

  template <int PART>
  static Vector weights(const Weight* from) { return load<__m512bh>(from); }
  template <int PART>
  static Vector inputs(const Input* from) { return load<__m512bh>(from); }
  static Floats add(Floats sums, Vector x, Vector w) {
    return (Floats)_mm512_dpbf16_ps((__m512)sums, x, w);
  }

  static void put(Input* row, int64_t k, float value) { row[k] = float_to_bfloat16(value); }
};
#else
// bfloat16 is the upper half of float32. The even weights of a step are shifted up, the odd ones
// are masked; prepared rows of x have the even values of each step first, then the odd ones.
struct BFloat16 {
  using Weight = uint16_t;
  using Input = float;
  using Vector = Floats;
  static constexpr int PARTS = 2;
  static constexpr int STEP = 2 * LANES;
  static constexpr int ROWS = FEW_REGISTERS ? 2 : 4;
  static constexpr int COLUMNS = FEW_REGISTERS ? 4 : 6;

  template <int PART>
  static Vector weights(const Weight* from) {
    const Words pairs = load<Words>(from);
    return PART == 0 ? (Floats)(pairs << 16) : (Floats)(pairs & 0xffff0000u);
  }
  template <int PART>
  static Vector inputs(const Input* from) { return load<Floats>(from + PART * LANES); }
  static Floats add(Floats sums, Vector x, Vector w) { return sums + x * w; }

  static void put(Input* row, int64_t k, float value) {
    const int64_t inside = k % STEP;
    row[k - inside + (inside % 2) * LANES + inside / 2] = value;
  }
};
#endif

}  // namespace
