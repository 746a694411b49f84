/* Scales a rectangle of RGB pixels with antialiasing, as torch does, bit for bit.
 *
 * torch.nn.functional.interpolate(mode="bilinear", antialias=True) of uint8 is two passes of 16-bit
 * weights, along rows and then along columns, each rounded to 8 bits. So is this. What it adds: the
 * rectangle is read where it lies (no crop is copied), may reach beyond the picture, only what is
 * seen of the result is computed, and that is written where it belongs, mirrored where wanted.
 *
 * No Python.h: resample.py calls it through ctypes, which lets other threads run meanwhile. Only
 * for x86-64 with AVX2; resample.py asks, and does the same by torch elsewhere.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define PUBLIC __declspec(dllexport)
#else
#define PUBLIC __attribute__((visibility("default")))
#endif

/* One axis: decoded pixels [start, stop), which may lie beyond [0, stored), become `scaled` ones, of
 * which [seen_start, seen_stop) are wanted. Pixels beyond are filled, or like the outermost one.
 * resample.py has the same fields in the same order. */
typedef struct {
    int64_t stored, start, stop, scaled, seen_start, seen_stop, fills_low, fills_high;
} Axis;

/* Changes with the arguments or their meaning: a file compiled before an update must not be called as
 * if it were the new one. */
PUBLIC int voc_resample_version(void) { return 1; }

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16, CHANNELS = 3 };

PUBLIC int voc_can_resample(void) { return __builtin_cpu_supports("avx2") != 0; }

/* Which pixels a scaled one is the mean of, with which weights: pairs of 16 bits, the last one 0
 * where they are odd. */
typedef struct {
    int most, shift;
    int32_t *first, *pairs;
    int16_t *weights;
} Taps;

static void drop_taps(Taps *taps) {
    free(taps->first);
    free(taps->weights);
}

/* Triangles as wide as a scaled pixel, or as a stored one where it grows; the rounding of sums and
 * weights is torch's (aten/src/ATen/native/cpu/UpSampleKernel.cpp). */
static int make_taps(Taps *taps, int64_t length, int64_t scaled) {
    double scale = (double)length / (double)scaled;
    double support = scale >= 1 ? scale : 1.0, slope = scale >= 1 ? 1.0 / scale : 1.0, top = 0;
    int most = 2 * (int)ceil(support) + 1, room = most + 1;
    double *exact = malloc(sizeof(double) * (size_t)room * (size_t)scaled);
    taps->most = room;
    taps->first = malloc(2 * sizeof(int32_t) * (size_t)scaled);
    taps->weights = calloc((size_t)room * (size_t)scaled, sizeof(int16_t));
    if (!exact || !taps->first || !taps->weights) {
        free(exact);
        drop_taps(taps);
        return -1;
    }
    taps->pairs = taps->first + scaled;
    for (int64_t i = 0; i < scaled; i++) {
        double centre = scale * ((double)i + 0.5), total = 0, *w = exact + i * room;
        int64_t low = (int64_t)(centre - support + 0.5), high = (int64_t)(centre + support + 0.5);
        if (low < 0) low = 0;
        if (high > length) high = length;
        int count = (int)(high - low);
        if (count < 0) count = 0;
        if (count > most) count = most;
        for (int j = 0; j < count; j++) {
            double off = fabs(((double)(j + low) - centre + 0.5) * slope);
            total += w[j] = off < 1 ? 1 - off : 0;
        }
        for (int j = 0; j < count; j++) {
            if (total != 0) w[j] /= total;
            if (w[j] > top) top = w[j];
        }
        taps->first[i] = (int32_t)low;
        taps->pairs[i] = count; /* made pairs below */
    }
    /* As many bits as the largest weight leaves of 16. */
    for (taps->shift = 0; taps->shift < 22; taps->shift++)
        if ((int)(0.5 + top * (double)(1 << (taps->shift + 1))) >= 1 << 15) break;
    for (int64_t i = 0; i < scaled; i++) {
        for (int j = 0; j < taps->pairs[i]; j++)
            taps->weights[i * room + j] =
                (int16_t)(0.5 + exact[i * room + j] * (double)(1 << taps->shift));
        taps->pairs[i] = (taps->pairs[i] + 1) / 2;
    }
    free(exact);
    return 0;
}

/* The weighted mean of 16 bytes each at `from`, `from + step`, …: two at a time. */
AVX2 INLINE void weigh(const uint8_t *from, size_t step, const int16_t *weights, int pairs,
                       int shift, uint8_t *to) {
    __m256i low = _mm256_set1_epi32(1 << (shift - 1)), high = low;
    __m128i bits = _mm_cvtsi32_si128(shift);
    for (int j = 0; j < pairs; j++, from += 2 * step) {
        __m128i one = _mm_loadu_si128((const __m128i *)from);
        __m128i two = _mm_loadu_si128((const __m128i *)(from + step));
        int32_t both;
        memcpy(&both, weights + 2 * j, sizeof both);
        __m256i w = _mm256_set1_epi32(both);
        __m256i a = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(one, two));
        __m256i b = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(one, two));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(a, w));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(b, w));
    }
    low = _mm256_sra_epi32(low, bits);
    high = _mm256_sra_epi32(high, bits);
    __m256i sums = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    __m128i bytes =
        _mm_packus_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    _mm_storeu_si128((__m128i *)to, bytes);
}

/* 16 x 16 bytes, rows to columns: four rounds of pairing row i with row i + 8. */
AVX2 INLINE void transpose(const uint8_t *from, size_t from_step, uint8_t *to, size_t to_step) {
    __m128i a[LANES], b[LANES];
    for (int i = 0; i < LANES; i++) a[i] = _mm_loadu_si128((const __m128i *)(from + i * from_step));
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < LANES / 2; i++) {
            b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + LANES / 2]);
            b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + LANES / 2]);
        }
        for (int i = 0; i < LANES; i++) a[i] = b[i];
    }
    for (int i = 0; i < LANES; i++) _mm_storeu_si128((__m128i *)(to + i * to_step), a[i]);
}

static void put_pixels(uint8_t *to, const uint8_t *pixel, int64_t count) {
    for (int64_t i = 0; i < count; i++) memcpy(to + CHANNELS * i, pixel, CHANNELS);
}

/* Pixels [start, stop) of line `y`, wherever that is. */
static void read_line(const uint8_t *pixels, int64_t line_bytes, const Axis *rows,
                      const Axis *columns, const uint8_t *fill, int64_t y, uint8_t *to) {
    int64_t width = columns->stop - columns->start;
    if ((y < 0 && rows->fills_low) || (y >= rows->stored && rows->fills_high)) {
        put_pixels(to, fill, width);
        return;
    }
    y = y < 0 ? 0 : y >= rows->stored ? rows->stored - 1 : y;
    int64_t left = columns->start < 0 ? 0 : columns->start;
    int64_t right = columns->stop < columns->stored ? columns->stop : columns->stored;
    const uint8_t *line = pixels + y * line_bytes;
    int64_t before = left - columns->start, inside = right - left;
    memcpy(to + CHANNELS * before, line + CHANNELS * left, (size_t)(CHANNELS * inside));
    put_pixels(to, columns->fills_low ? fill : line + CHANNELS * left, before);
    put_pixels(to + CHANNELS * (before + inside),
               columns->fills_high ? fill : line + CHANNELS * (right - 1),
               columns->stop - right);
}

/* pixels: uint8 [rows->stored, columns->stored, 3], lines `line_bytes` apart.
 * out: uint8 [rows seen, columns seen, 3], lines `out_bytes` apart.
 * fill: 3 bytes. is_flipped: the columns seen come out from right to left.
 * 0, or -1 where memory is short. Spans must hold a stored pixel, and what is seen be in [0, scaled).
 */
AVX2 PUBLIC int voc_resample(const uint8_t *pixels, int64_t line_bytes, const Axis *rows,
                             const Axis *columns, const uint8_t *fill, int is_flipped, uint8_t *out,
                             int64_t out_bytes) {
    int64_t width = columns->stop - columns->start, height = rows->stop - rows->start;
    int64_t seen_width = columns->seen_stop - columns->seen_start;
    int64_t seen_height = rows->seen_stop - rows->seen_start;
    Taps across, down;
    if (make_taps(&across, width, columns->scaled)) return -1;
    if (make_taps(&down, height, rows->scaled)) {
        drop_taps(&across);
        return -1;
    }
    /* Lines that anything seen is a mean of. */
    int64_t last = rows->seen_stop - 1, first_line = down.first[rows->seen_start];
    int64_t lines = down.first[last] + 2 * down.pairs[last] - first_line;
    if (lines > height - first_line) lines = height - first_line;

    /* Strips of 16 lines: as they are, and turned so that 16 lines lie side by side; scaled, turned,
     * and as lines again. Rounded up to whole vectors, and with what a last pair's zero weight
     * reads. */
    size_t line_step = ((size_t)width * CHANNELS + LANES - 1) / LANES * LANES;
    size_t seen_step = ((size_t)seen_width * CHANNELS + LANES - 1) / LANES * LANES;
    size_t strip = LANES * line_step, narrow = LANES * seen_step;
    size_t scaled_lines = ((size_t)lines + LANES - 1) / LANES * LANES + 1;
    uint8_t *room = malloc(strip + (strip + CHANNELS * LANES) + narrow + scaled_lines * seen_step);
    if (!room) {
        drop_taps(&across);
        drop_taps(&down);
        return -1;
    }
    uint8_t *straight = room, *turned = straight + strip;
    uint8_t *seen = turned + strip + CHANNELS * LANES, *scaled = seen + narrow;
    memset(room, 0, strip + strip + CHANNELS * LANES + narrow);
    memset(scaled + (scaled_lines - 1) * seen_step, 0, seen_step);

    for (int64_t y = 0; y < lines; y += LANES) {
        int64_t count = lines - y < LANES ? lines - y : LANES;
        for (int64_t i = 0; i < count; i++)
            read_line(pixels, line_bytes, rows, columns, fill, rows->start + first_line + y + i,
                      straight + (size_t)i * line_step);
        for (size_t at = 0; at < line_step; at += LANES)
            transpose(straight + at, line_step, turned + at * LANES, LANES);
        for (int64_t x = 0; x < seen_width; x++) {
            int64_t tap = is_flipped ? columns->seen_stop - 1 - x : columns->seen_start + x;
            const int16_t *weights = across.weights + tap * across.most;
            const uint8_t *from = turned + (size_t)across.first[tap] * CHANNELS * LANES;
            for (int c = 0; c < CHANNELS; c++)
                weigh(from + c * LANES, CHANNELS * LANES, weights, across.pairs[tap], across.shift,
                      seen + (size_t)(x * CHANNELS + c) * LANES);
        }
        for (size_t at = 0; at < seen_step; at += LANES)
            transpose(seen + at * LANES, LANES, scaled + (size_t)y * seen_step + at, seen_step);
    }
    size_t whole = (size_t)(seen_width * CHANNELS) / LANES * LANES;
    size_t rest = (size_t)(seen_width * CHANNELS) - whole;
    for (int64_t y = 0; y < seen_height; y++) {
        int64_t tap = rows->seen_start + y;
        const int16_t *weights = down.weights + tap * down.most;
        const uint8_t *from = scaled + (size_t)(down.first[tap] - first_line) * seen_step;
        uint8_t *to = out + y * out_bytes, end[LANES];
        for (size_t at = 0; at < whole; at += LANES)
            weigh(from + at, seen_step, weights, down.pairs[tap], down.shift, to + at);
        if (rest) {
            weigh(from + whole, seen_step, weights, down.pairs[tap], down.shift, end);
            memcpy(to + whole, end, rest);
        }
    }
    free(room);
    drop_taps(&across);
    drop_taps(&down);
    return 0;
}

#else

PUBLIC int voc_can_resample(void) { return 0; }

PUBLIC int voc_resample(const uint8_t *pixels, int64_t line_bytes, const Axis *rows,
                        const Axis *columns, const uint8_t *fill, int is_flipped, uint8_t *out,
                        int64_t out_bytes) {
    (void)pixels, (void)line_bytes, (void)rows, (void)columns, (void)fill, (void)is_flipped;
    (void)out, (void)out_bytes;
    return -1;
}

#endif
