/* Scales pictures, changes their colours, and fills outlines.
 *
 * No Python.h: kernels.py calls this through ctypes, which lets other threads run meanwhile. Needs
 * x86-64 with AVX2: kernels.py checks that; elsewhere torch and OpenCV make the same pixels.
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

/* Change this with the arguments or their meaning, so that a file compiled before an update is not
 * called. */
PUBLIC int voc_version(void) { return 3; }

/* One axis: decoded pixels [start, stop), which may reach beyond [0, stored), are scaled to `scaled`
 * pixels, of which [seen_start, seen_stop) are wanted. Pixels beyond the picture are filled, or repeat
 * the outermost one. resample.py has the same fields in the same order. */
typedef struct {
    int64_t stored, start, stop, scaled, seen_start, seen_stop, fills_low, fills_high;
} Axis;

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 32, HALF = 16, CHANNELS = 3 };

PUBLIC int voc_can_run(void) { return __builtin_cpu_supports("avx2") != 0; }

/* Scaling ----------------------------------------------------------------------------------------
 *
 * Scales a rectangle of RGB pixels with antialiasing, bit for bit as torch does.
 *
 * torch.nn.functional.interpolate(mode="bilinear", antialias=True) of uint8 is two passes of 16-bit
 * weights, along rows and then along columns, each rounded to 8 bits. So is this. In addition, it
 * reads the rectangle in place (copies no crop), lets it reach beyond the picture, computes only what
 * is seen of the result, and writes that in place, mirrored if wanted. */

/* The pixels and weights of each scaled pixel's mean. Weights are pairs of 16 bits; if their number
 * is odd, the last one is 0. */
typedef struct {
    int most, shift;
    int32_t *first, *pairs;
    int16_t *weights;
} Taps;

static void drop_taps(Taps *taps) {
    free(taps->first);
    free(taps->weights);
}

/* Triangles as wide as a scaled pixel, or as a stored one if the picture grows. Sums and weights are
 * rounded as in torch (aten/src/ATen/native/cpu/UpSampleKernel.cpp). */
static int make_taps(Taps *taps, int64_t length, int64_t scaled) {
    double scale = (double)length / (double)scaled;
    double support = scale >= 1 ? scale : 1.0, slope = scale >= 1 ? 1.0 / scale : 1.0, top = 0;
    int most = 2 * (int)ceil(support) + 1, stride = most + 1;
    double *exact = malloc(sizeof(double) * (size_t)stride * (size_t)scaled);
    taps->most = stride;
    taps->first = malloc(2 * sizeof(int32_t) * (size_t)scaled);
    taps->weights = calloc((size_t)stride * (size_t)scaled, sizeof(int16_t));
    if (!exact || !taps->first || !taps->weights) {
        free(exact);
        drop_taps(taps);
        return -1;
    }
    taps->pairs = taps->first + scaled;
    for (int64_t i = 0; i < scaled; i++) {
        double centre = scale * ((double)i + 0.5), total = 0, *w = exact + i * stride;
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
    /* As many bits as fit in 16 with the largest weight. */
    for (taps->shift = 0; taps->shift < 22; taps->shift++)
        if ((int)(0.5 + top * (double)(1 << (taps->shift + 1))) >= 1 << 15) break;
    for (int64_t i = 0; i < scaled; i++) {
        for (int j = 0; j < taps->pairs[i]; j++)
            taps->weights[i * stride + j] =
                (int16_t)(0.5 + exact[i * stride + j] * (double)(1 << taps->shift));
        taps->pairs[i] = (taps->pairs[i] + 1) / 2;
    }
    free(exact);
    return 0;
}

/* Weighted means of `vectors` times 32 bytes at `from`, `from + step`, …: two at a time, whose bytes
 * are paired, made 16 bits wide, multiplied and added up in one step. */
AVX2 INLINE void mix_pairs(const uint8_t *from, size_t step, size_t vectors, const int16_t *weights,
                           int pairs, int shift, uint8_t *to) {
    const __m256i half = _mm256_set1_epi32(1 << (shift - 1)), zero = _mm256_setzero_si256();
    const __m128i bits = _mm_cvtsi32_si128(shift);
    for (size_t i = 0; i < vectors; i++, to += LANES) {
        const uint8_t *at = from + i * LANES;
        __m256i a = half, b = half, c = half, d = half;
        for (int j = 0; j < pairs; j++, at += 2 * step) {
            int32_t both;
            memcpy(&both, weights + 2 * j, sizeof both);
            __m256i w = _mm256_set1_epi32(both);
            __m256i one = _mm256_loadu_si256((const __m256i *)at);
            __m256i two = _mm256_loadu_si256((const __m256i *)(at + step));
            __m256i low = _mm256_unpacklo_epi8(one, two), high = _mm256_unpackhi_epi8(one, two);
            a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), w));
            b = _mm256_add_epi32(b, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), w));
            c = _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), w));
            d = _mm256_add_epi32(d, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), w));
        }
        a = _mm256_packs_epi32(_mm256_sra_epi32(a, bits), _mm256_sra_epi32(b, bits));
        c = _mm256_packs_epi32(_mm256_sra_epi32(c, bits), _mm256_sra_epi32(d, bits));
        _mm256_storeu_si256((__m256i *)to, _mm256_packus_epi16(a, c));
    }
}

/* The same, with loops of constant length for usual lengths. */
AVX2 static void mix(const uint8_t *from, size_t step, size_t vectors, const int16_t *weights,
                     int pairs, int shift, uint8_t *to) {
    switch (pairs) {
    case 1: mix_pairs(from, step, vectors, weights, 1, shift, to); break;
    case 2: mix_pairs(from, step, vectors, weights, 2, shift, to); break;
    case 3: mix_pairs(from, step, vectors, weights, 3, shift, to); break;
    default: mix_pairs(from, step, vectors, weights, pairs, shift, to);
    }
}

/* Transposes both halves of 16 vectors, in four rounds that pair vector i with i + 8. */
AVX2 INLINE void transpose(__m256i a[HALF]) {
    __m256i b[HALF];
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < HALF / 2; i++) {
            b[2 * i] = _mm256_unpacklo_epi8(a[i], a[i + HALF / 2]);
            b[2 * i + 1] = _mm256_unpackhi_epi8(a[i], a[i + HALF / 2]);
        }
        for (int i = 0; i < HALF; i++) a[i] = b[i];
    }
}

/* Transposes 32 lines of 16 bytes to 16 columns of 32. */
AVX2 INLINE void to_columns(const uint8_t *from, size_t step, uint8_t *to) {
    __m256i a[HALF];
    for (int i = 0; i < HALF; i++) {
        const uint8_t *high = from + (size_t)(i + HALF) * step;
        a[i] = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(from + (size_t)i * step)));
        a[i] = _mm256_inserti128_si256(a[i], _mm_loadu_si128((const __m128i *)high), 1);
    }
    transpose(a);
    for (int i = 0; i < HALF; i++) _mm256_storeu_si256((__m256i *)(to + i * LANES), a[i]);
}

/* Transposes 16 columns of 32 bytes to 32 lines of 16. */
AVX2 INLINE void to_lines(const uint8_t *from, uint8_t *to, size_t step) {
    __m256i a[HALF];
    for (int i = 0; i < HALF; i++) a[i] = _mm256_loadu_si256((const __m256i *)(from + i * LANES));
    transpose(a);
    for (int i = 0; i < HALF; i++) {
        _mm_storeu_si128((__m128i *)(to + (size_t)i * step), _mm256_castsi256_si128(a[i]));
        _mm_storeu_si128((__m128i *)(to + (size_t)(i + HALF) * step),
                         _mm256_extracti128_si256(a[i], 1));
    }
}

static void put_pixels(uint8_t *to, const uint8_t *pixel, int64_t count) {
    for (int64_t i = 0; i < count; i++) memcpy(to + CHANNELS * i, pixel, CHANNELS);
}

/* Copies pixels [start, stop) of line `y`, also from beyond the picture. */
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
 * fill: 3 bytes. is_flipped: the columns seen are written from right to left.
 * Returns 0, or -1 without memory. Spans must hold a stored pixel; what is seen is in [0, scaled).
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
    /* The lines needed for what is seen. */
    int64_t last = rows->seen_stop - 1, first_line = down.first[rows->seen_start];
    int64_t lines = down.first[last] + 2 * down.pairs[last] - first_line;
    if (lines > height - first_line) lines = height - first_line;

    /* Strips of 32 lines: as read, transposed, scaled, and transposed back. Rounded up to whole
     * vectors, and with space for what a last pair's weight of 0 reads, whose value does not matter. */
    size_t line_step = ((size_t)width * CHANNELS + LANES - 1) / LANES * LANES;
    size_t seen_step = ((size_t)seen_width * CHANNELS + LANES - 1) / LANES * LANES;
    size_t strip = LANES * line_step, narrow = LANES * seen_step;
    size_t scaled_lines = ((size_t)lines + LANES - 1) / LANES * LANES + 1;
    uint8_t *work = malloc(strip + (strip + CHANNELS * LANES) + narrow + scaled_lines * seen_step);
    if (!work) {
        drop_taps(&across);
        drop_taps(&down);
        return -1;
    }
    uint8_t *straight = work, *turned = straight + strip;
    uint8_t *seen = turned + strip + CHANNELS * LANES, *scaled = seen + narrow;

    /* Lines are read in place if the 31 bytes after a line belong to the next one. */
    int is_within = columns->start >= 0 && columns->stop <= columns->stored && line_bytes >= LANES;

    for (int64_t y = 0; y < lines; y += LANES) {
        int64_t line = rows->start + first_line + y;
        const uint8_t *first = straight;
        size_t step = line_step;
        if (is_within && line >= 0 && line + LANES < rows->stored) {
            first = pixels + line * line_bytes + columns->start * CHANNELS;
            step = (size_t)line_bytes;
        } else {
            int64_t count = lines - y < LANES ? lines - y : LANES;
            for (int64_t i = 0; i < count; i++)
                read_line(pixels, line_bytes, rows, columns, fill, line + i,
                          straight + (size_t)i * line_step);
        }
        for (size_t at = 0; at < line_step; at += HALF)
            to_columns(first + at, step, turned + at * LANES);
        for (int64_t x = 0; x < seen_width; x++) {
            int64_t tap = is_flipped ? columns->seen_stop - 1 - x : columns->seen_start + x;
            const int16_t *weights = across.weights + tap * across.most;
            const uint8_t *from = turned + (size_t)across.first[tap] * CHANNELS * LANES;
            mix(from, CHANNELS * LANES, CHANNELS, weights, across.pairs[tap], across.shift,
                seen + (size_t)x * CHANNELS * LANES);
        }
        for (size_t at = 0; at < seen_step; at += HALF)
            to_lines(seen + at * LANES, scaled + (size_t)y * seen_step + at, seen_step);
    }
    size_t whole = (size_t)(seen_width * CHANNELS) / LANES * LANES;
    size_t rest = (size_t)(seen_width * CHANNELS) - whole;
    for (int64_t y = 0; y < seen_height; y++) {
        int64_t tap = rows->seen_start + y;
        const int16_t *weights = down.weights + tap * down.most;
        const uint8_t *from = scaled + (size_t)(down.first[tap] - first_line) * seen_step;
        uint8_t *to = out + y * out_bytes, end[LANES];
        mix(from, seen_step, whole / LANES, weights, down.pairs[tap], down.shift, to);
        if (rest) {
            mix(from + whole, seen_step, 1, weights, down.pairs[tap], down.shift, end);
            memcpy(to + whole, end, rest);
        }
    }
    free(work);
    drop_taps(&across);
    drop_taps(&down);
    return 0;
}

/* Colours ----------------------------------------------------------------------------------------
 *
 * In whole numbers, so that OpenCV can do the same to the last bit. */

enum { PIXELS = 8 }; /* at a time */

/* The new colours of 8 pixels, four in each half: 24 bytes at `from`, of which 28 are read. */
AVX2 INLINE __m256i recolor(const uint8_t *from, const __m256i *red_green, const __m256i *blue,
                            const __m256i *offsets, __m128i bits) {
    /* Shuffles to 16 bits each, (red, green) and (blue, 0), and back from planes of four to pixels. */
    const __m256i reds = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 1, -1, 3, -1, 4, -1, 6, -1, 7, -1, 9, -1, 10, -1));
    const __m256i blues = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(2, -1, -1, -1, 5, -1, -1, -1, 8, -1, -1, -1, 11, -1, -1, -1));
    const __m256i mixed = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11, -1, -1, -1, -1));
    __m256i four = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)from));
    four = _mm256_inserti128_si256(four, _mm_loadu_si128((const __m128i *)(from + 12)), 1);
    __m256i a = _mm256_shuffle_epi8(four, reds), b = _mm256_shuffle_epi8(four, blues), sums[CHANNELS];
    for (int c = 0; c < CHANNELS; c++) {
        __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(a, red_green[c]), offsets[c]);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(b, blue[c]));
        sums[c] = _mm256_sra_epi32(sum, bits);
    }
    __m256i low = _mm256_packs_epi32(sums[0], sums[1]), high = _mm256_packs_epi32(sums[2], sums[2]);
    return _mm256_shuffle_epi8(_mm256_packus_epi16(low, high), mixed);
}

/* pixels, out: uint8 [height, width, 3], lines `line_bytes` and `out_bytes` apart; may be the same.
 * weights: [3, 3], the factors of r, g and b in each new colour; offsets: [3], with the rounding half.
 * New colours are the sums shifted right by `bits`, and clipped to 0 … 255. Sums must fit 32 bits.
 */
AVX2 PUBLIC void voc_recolor(const uint8_t *pixels, int64_t line_bytes, int64_t height,
                             int64_t width, const int16_t *weights, const int32_t *offsets, int bits,
                             uint8_t *out, int64_t out_bytes) {
    __m256i red_green[CHANNELS], blue[CHANNELS], all[CHANNELS];
    __m128i shift = _mm_cvtsi32_si128(bits);
    for (int c = 0; c < CHANNELS; c++) {
        int32_t both, only = (uint16_t)weights[3 * c + 2];
        memcpy(&both, weights + 3 * c, sizeof both);
        red_green[c] = _mm256_set1_epi32(both);
        blue[c] = _mm256_set1_epi32(only);
        all[c] = _mm256_set1_epi32(offsets[c]);
    }
    for (int64_t y = 0; y < height; y++) {
        const uint8_t *from = pixels + y * line_bytes, *end = from + width * CHANNELS;
        uint8_t *to = out + y * out_bytes;
        for (; end - from >= 28; from += PIXELS * CHANNELS, to += PIXELS * CHANNELS) {
            __m256i found = recolor(from, red_green, blue, all, shift);
            __m128i high = _mm256_extracti128_si256(found, 1);
            _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(found));
            _mm_storel_epi64((__m128i *)(to + 12), high); /* no byte more: it may be read next */
            int32_t last = _mm_extract_epi32(high, 2);
            memcpy(to + 20, &last, sizeof last);
        }
        for (; from < end; from += CHANNELS, to += CHANNELS) {
            uint8_t r = from[0], g = from[1], b = from[2];
            for (int c = 0; c < CHANNELS; c++) {
                const int16_t *w = weights + 3 * c;
                int32_t sum = (w[0] * r + w[1] * g + w[2] * b + offsets[c]) >> bits;
                to[c] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
            }
        }
    }
}

enum { RUN = CHANNELS * LANES, RUNS = 256 }; /* bytes until colours repeat, and runs that 16 bits can sum */

/* Adds the sums of each place of a run to the channels' sums, and resets them. */
AVX2 static void fold(__m256i even[CHANNELS], __m256i odd[CHANNELS], int64_t *sums) {
    for (int i = 0; i < CHANNELS; i++) {
        uint16_t lanes[2][HALF];
        _mm256_storeu_si256((__m256i *)lanes[0], even[i]);
        _mm256_storeu_si256((__m256i *)lanes[1], odd[i]);
        for (int j = 0; j < LANES; j++) sums[(i * LANES + j) % CHANNELS] += lanes[j % 2][j / 2];
        even[i] = odd[i] = _mm256_setzero_si256();
    }
}

/* The sums of reds, greens and blues of uint8 [height, width, 3], lines `line_bytes` apart. */
AVX2 PUBLIC void voc_sums(const uint8_t *pixels, int64_t line_bytes, int64_t height, int64_t width,
                          int64_t *sums) {
    __m256i even[CHANNELS], odd[CHANNELS], low_bytes = _mm256_set1_epi16(255);
    int runs = 0;
    sums[0] = sums[1] = sums[2] = 0;
    for (int i = 0; i < CHANNELS; i++) even[i] = odd[i] = _mm256_setzero_si256();
    for (int64_t y = 0; y < height; y++) {
        const uint8_t *from = pixels + y * line_bytes, *end = from + width * CHANNELS;
        for (; end - from >= RUN; from += RUN) {
            for (int i = 0; i < CHANNELS; i++) {
                __m256i some = _mm256_loadu_si256((const __m256i *)(from + i * LANES));
                even[i] = _mm256_add_epi16(even[i], _mm256_and_si256(some, low_bytes));
                odd[i] = _mm256_add_epi16(odd[i], _mm256_srli_epi16(some, 8));
            }
            if (++runs == RUNS) fold(even, odd, sums), runs = 0;
        }
        for (; from < end; from += CHANNELS)
            for (int c = 0; c < CHANNELS; c++) sums[c] += from[c];
    }
    fold(even, odd, sums);
}

/* Outlines ---------------------------------------------------------------------------------------
 *
 * A pixel lies in a polygon if a ray from its centre to the left crosses the polygon's edges an odd
 * number of times. instances.py does the same in NumPy, with the same operations on doubles in the
 * same order, so that no pixel differs. The compiler must not contract them. */

/* The first whole number from `low` to `high` whose centre lies at or behind `at`; `high`: none. */
AVX2 INLINE int64_t first_centre(double at, int64_t low, int64_t high) {
    double found = ceil(at - 0.5);
    if (!(found > (double)low)) return low; /* also for NaN */
    return found < (double)high ? (int64_t)found : high;
}

/* ORs each row's running parity of `toggles` into `out`, `width` bytes a row. */
static void add_parity(const uint8_t *toggles, size_t step, int64_t height, int64_t width,
                       uint8_t *out, int64_t out_bytes) {
    for (int64_t y = 0; y < height; y++, toggles += step, out += out_bytes) {
        uint64_t parity = 0, eight, old;
        int64_t x = 0;
        for (; x + 8 <= width; x += 8) {
            memcpy(&eight, toggles + x, sizeof eight); /* the lowest byte is the first pixel */
            eight ^= eight << 8;
            eight ^= eight << 16;
            eight ^= eight << 32;
            eight ^= parity;
            memcpy(&old, out + x, sizeof old);
            old |= eight;
            memcpy(out + x, &old, sizeof old);
            parity = (eight >> 56) * 0x0101010101010101u;
        }
        for (uint8_t odd = (uint8_t)parity; x < width; x++) out[x] |= odd ^= toggles[x];
    }
}

/* points: the corners (x, y) of all polygons, end to end; stops: where each polygon ends, in points;
 * planes: the plane of `out` that each is added to, below 0: none.
 * view: left, top, and pixels of the output to one of the picture, across and down.
 * seen: the first row that may be filled and the one after the last, then columns, before mirroring.
 * mirror: width of the output if it is mirrored left to right, else 0.
 * out: uint8 [planes, height, width], 0 or 1, to which 1s are added.
 * Returns 0, or -1 without memory. */
AVX2 PUBLIC int voc_fill(const double *points, const int64_t *stops, const int64_t *planes,
                         int64_t polygons, const double *view, const int64_t *seen, int64_t mirror,
                         uint8_t *out, int64_t height, int64_t width) {
    int64_t most = 0, rows = seen[1] - seen[0], columns = seen[3] - seen[2];
    if (rows <= 0 || columns <= 0) return 0;
    for (int64_t i = 0; i < polygons; i++) {
        int64_t count = stops[i] - (i ? stops[i - 1] : 0);
        if (count > most) most = count;
    }
    double *moved = malloc(sizeof(double) * 2 * ((size_t)most + 1));
    uint8_t *toggles = malloc((size_t)rows * ((size_t)columns + 1));
    if (!moved || !toggles) {
        free(moved);
        free(toggles);
        return -1;
    }
    for (int64_t i = 0; i < polygons; i++) {
        int64_t begin = i ? stops[i - 1] : 0, count = stops[i] - begin;
        if (planes[i] < 0 || count < 1) continue;
        double low_x = 0, high_x = 0, low_y = 0, high_y = 0;
        for (int64_t k = 0; k < count; k++) {
            double x = (points[2 * (begin + k)] - view[0]) * view[2];
            double y = (points[2 * (begin + k) + 1] - view[1]) * view[3];
            if (!k || x < low_x) low_x = x;
            if (!k || x > high_x) high_x = x;
            if (!k || y < low_y) low_y = y;
            if (!k || y > high_y) high_y = y;
            moved[2 * k] = x;
            moved[2 * k + 1] = y;
        }
        int64_t top = first_centre(low_y, seen[0], seen[1]);
        int64_t bottom = first_centre(high_y, seen[0], seen[1]);
        int64_t left = first_centre(low_x, seen[2], seen[3]);
        int64_t right = first_centre(high_x, seen[2], seen[3]);
        if (top >= bottom || left >= right) continue;
        size_t step = (size_t)(right - left) + 1;
        memset(toggles, 0, (size_t)(bottom - top) * step);
        for (int64_t k = 0; k < count; k++) {
            const double *a = moved + 2 * k, *b = moved + 2 * (k + 1 < count ? k + 1 : 0);
            if (a[1] > b[1]) { /* from the upper end, so that neighbours share an edge exactly */
                const double *other = a;
                a = b;
                b = other;
            }
            int64_t from = first_centre(a[1], top, bottom), to = first_centre(b[1], top, bottom);
            double slope = (b[0] - a[0]) / (b[1] - a[1]);
            for (int64_t y = from; y < to; y++) {
                double x = a[0] + ((double)y + 0.5 - a[1]) * slope;
                int64_t at = first_centre(x, left, right) - left;
                toggles[(size_t)(y - top) * step + (size_t)(mirror ? right - left - at : at)] ^= 1;
            }
        }
        int64_t first = mirror ? mirror - right : left;
        add_parity(toggles, step, bottom - top, right - left,
                   out + (planes[i] * height + top) * width + first, width);
    }
    free(moved);
    free(toggles);
    return 0;
}

#else

PUBLIC int voc_can_run(void) { return 0; }

#endif
