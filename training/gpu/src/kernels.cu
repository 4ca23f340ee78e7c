// The decoder on a graphics card, with the bits of the processor's engine (`training/src/engine/`, which defines every number here): the same
// additions, multiplications, divisions, roots and fused operations in the same order for each number, so it does not matter where it was computed.
// `scripts/ptx` compiles this file, without fusing anything that is not written as fmaf, to kernels.ptx.
//
// A group of LANES threads makes a number that the engine adds up in as many lanes; two groups are a warp, and all threads of a warp that is not done
// meet at each exchange of values. Shapes: T rows, C = width, H heads and K key-value heads of width D, F = inner width.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define LANES 16
#define SPAN 64
#define GROUPS 8 // Of a block of 128 threads.
#define ALL 0xffffffffu

// Where a row's sequence keeps what it has seen: for each layer keys and then values, [K, room, D] each.
struct Row {
    float *seen;
    u32 room;
    u32 at;
};

#ifdef __CUDACC__
// sum + the products of a pair of 16-bit integers and the lower, or upper, two bytes.
static __device__ int pairs_lo(int pair, int bytes, int sum) {
    int all;
    asm("dp2a.lo.s32.s32 %0, %1, %2, %3;" : "=r"(all) : "r"(pair), "r"(bytes), "r"(sum));
    return all;
}
static __device__ int pairs_hi(int pair, int bytes, int sum) {
    int all;
    asm("dp2a.hi.s32.s32 %0, %1, %2, %3;" : "=r"(all) : "r"(pair), "r"(bytes), "r"(sum));
    return all;
}
#endif

static __device__ u32 lane() { return threadIdx.x % LANES; }

// Number of the group among all of the launch.
static __device__ u32 group() { return (blockIdx.x * blockDim.x + threadIdx.x) / LANES; }

// The sum of a group's lanes, for all of them: halves are added until one is left.
static __device__ float across(float sum) {
    for (int half = LANES / 2; half > 0; half /= 2) sum = sum + __shfl_down_sync(ALL, sum, half, LANES);
    return __shfl_sync(ALL, sum, 0, LANES);
}

// The exponential function of `math.rs`.
static __device__ float power(float x) {
    const float ROUND = 12582912.0f;
    float bounded = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float rounded = fmaf(bounded, 1.44269504088896340736f, ROUND);
    float whole = rounded - ROUND;
    float rest = fmaf(whole, -0.6933594f, bounded);
    rest = fmaf(whole, 2.1219444e-4f, rest);
    float power = 1.0f / 720.0f;
    power = fmaf(power, rest, 1.0f / 120.0f);
    power = fmaf(power, rest, 1.0f / 24.0f);
    power = fmaf(power, rest, 1.0f / 6.0f);
    power = fmaf(power, rest, 0.5f);
    power = fmaf(power, rest, 1.0f);
    power = fmaf(power, rest, 1.0f);
    float scaled = power * __uint_as_float((__float_as_uint(rounded) + 127u) << 23);
    return x < -87.0f ? 0.0f : scaled;
}

// Lanes' parts of the sum (or of that of the squares) of `width` numbers, each less `mean`, and of zeros up to a chunk that is never full.
template <bool SQUARES> static __device__ float summed(const float *__restrict__ x, u32 width, float mean) {
    u32 whole = width / LANES;
    float sum = 0.0f;
    x += lane();
#pragma unroll 16
    for (u32 chunk = 0; chunk < whole; chunk++) {
        float value = x[chunk * LANES] - mean;
        sum = SQUARES ? fmaf(value, value, sum) : sum + value;
    }
    float last = whole * LANES + lane() < width ? x[whole * LANES] - mean : 0.0f;
    return SQUARES ? fmaf(last, last, sum) : sum + last;
}

// LayerNorm (`layer`) or RMSNorm of rows [T, C]; rows of y are `stride` apart. All groups of a block make the sums of a row, and a part of its numbers.
extern "C" __global__ void normalise(const float *__restrict__ x, const float *__restrict__ weight, const float *__restrict__ bias, float *__restrict__ y, u32 width, u32 stride, float epsilon, u32 layer) {
    x += (u64)blockIdx.x * width;
    y += (u64)blockIdx.x * stride;
    float mean = layer ? across(summed<false>(x, width, 0.0f)) / (float)width : 0.0f;
    float factor = 1.0f / sqrtf(across(summed<true>(x, width, mean)) / (float)width + epsilon);
    for (u32 k = threadIdx.x; k < width; k += blockDim.x) {
        float value = (x[k] - mean) * factor * weight[k];
        y[k] = bias ? value + bias[k] : value;
    }
}

// 16-bit integers of each span of x [T, spans * SPAN], pairs of neighbours in a word, and what they are worth (`ints.rs`).
extern "C" __global__ void integers(const float *x, u32 *pairs, float *scales, u32 spans) {
    bool here = group() < spans;
    u32 span = here ? group() : spans - 1;
    x += (u64)span * SPAN;
    u32 first = 2 * lane(), second = SPAN / 2 + 2 * lane();
    float values[4] = {x[first], x[first + 1], x[second], x[second + 1]};
    u32 most = 0;
    for (int i = 0; i < 4; i++) {
        u32 bits = __float_as_uint(values[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    for (int half = LANES / 2; half > 0; half /= 2) {
        u32 other = __shfl_xor_sync(ALL, most, half, LANES);
        most = other > most ? other : most;
    }
    float largest = __uint_as_float(most);
    bool finite = most < 0x7f800000u, zero = largest < 1e-30f;
    float whole = 32767.0f / largest;
    u32 bits[4];
    for (int i = 0; i < 4; i++) {
        float scaled = values[i] * whole;
        bits[i] = !finite || zero ? 0u : __float_as_uint(scaled + 12582912.0f);
    }
    if (!here) return;
    pairs[(u64)span * (SPAN / 2) + lane()] = (bits[0] & 0xffffu) | (bits[1] << 16);
    pairs[(u64)span * (SPAN / 2) + LANES + lane()] = (bits[2] & 0xffffu) | (bits[3] << 16);
    if (lane() == 0) scales[span] = !finite ? __uint_as_float(0x7fc00000u) : zero ? 0.0f : largest / 32767.0f;
}

// A type of weights: what a lane takes of a span of x and of weights, and how they meet.
struct Float32 {
    struct X { float v[4]; };
    struct W { float v[4]; };
    static const u32 SIZE = 4;
    static __device__ X given(const float *x, const float *, u64 span) {
        x += span * SPAN + lane();
        return X{{x[0], x[16], x[32], x[48]}};
    }
    static __device__ W load(const u8 *row, u32 span) {
        const float *w = (const float *)row + span * SPAN + lane();
        return W{{w[0], w[16], w[32], w[48]}};
    }
    static __device__ float meet(float sum, const X &x, const W &w) {
        for (int i = 0; i < 4; i++) sum = fmaf(x.v[i], w.v[i], sum);
        return sum;
    }
};

// 16-bit floats: the lower and then the upper halves of sixteen words.
template <bool BRAIN> struct Float16 {
    typedef Float32::X X;
    typedef Float32::W W;
    static const u32 SIZE = 2;
    static __device__ X given(const float *x, const float *, u64 span) {
        x += span * SPAN + 2 * lane();
        return X{{x[0], x[1], x[32], x[33]}};
    }
    static __device__ float widen(u32 upper) {
        if (BRAIN) return __uint_as_float(upper);
        float value = __uint_as_float((upper & 0x80000000u) | ((upper >> 3) & 0x0fffffffu));
        return value * 5.192296858534828e33f; // 2^112
    }
    static __device__ W load(const u8 *row, u32 span) {
        const u32 *w = (const u32 *)row + span * (SPAN / 2) + lane();
        u32 first = w[0], second = w[16];
        return W{{widen(first << 16), widen(first & 0xffff0000u), widen(second << 16), widen(second & 0xffff0000u)}};
    }
    static __device__ float meet(float sum, const X &x, const W &w) { return Float32::meet(sum, x, w); }
};

// 8-bit integers, which meet pairs of 16-bit ones: exact within a span.
struct Int8 {
    struct X { int first, second; float scale; };
    struct W { int four; };
    static const u32 SIZE = 1;
    static __device__ X given(const float *x, const float *scales, u64 span) {
        const int *pairs = (const int *)x + span * (SPAN / 2) + lane();
        return X{pairs[0], pairs[16], scales[span]};
    }
    static __device__ W load(const u8 *row, u32 span) {
        const u16 *w = (const u16 *)row + span * (SPAN / 2) + lane();
        return W{(int)((u32)w[0] | ((u32)w[16] << 16))};
    }
    static __device__ float meet(float sum, const X &x, const W &w) {
        int exact = pairs_hi(x.second, w.four, pairs_lo(x.first, w.four, 0));
        return fmaf(x.scale, (float)exact, sum);
    }
};

// x [T, spans] times the transpose of w [outs, spans]: R rows and C columns for each group, of which BANDS stand one below the other in a block.
// What comes out is multiplied with the column's scale, where there are scales, and its bias is added; then it is written to y at `offset`, rows
// `stride` apart, or added to what is there (`add`).
template <class T, int R, int C, u32 BANDS>
static __device__ void product(const float *x, const float *x_scales, const u8 *w, const float *scales, const float *bias, float *y, u32 rows, u32 outs, u32 spans, u32 stride, u32 offset, u32 add) {
    u32 groups = blockDim.x / LANES, own = threadIdx.x / LANES, columns = groups / BANDS;
    u32 column = (blockIdx.x * columns + own % columns) * C;
    u32 row = (blockIdx.y * BANDS + own / columns) * R;
    if (row >= rows) return; // With it the other group of its warp.
    float sums[R][C];
    u64 xs[R];
    const u8 *ws[C];
#pragma unroll
    for (int r = 0; r < R; r++) xs[r] = (u64)(row + r < rows ? row + r : rows - 1) * spans;
#pragma unroll
    for (int c = 0; c < C; c++) {
        ws[c] = w + (u64)(column + c < outs ? column + c : outs - 1) * spans * SPAN * T::SIZE;
#pragma unroll
        for (int r = 0; r < R; r++) sums[r][c] = 0.0f;
    }
#pragma unroll (R * C == 1 ? 8 : R * C <= 8 ? 4 : 1)
    for (u32 span = 0; span < spans; span++) {
        typename T::X given[R];
#pragma unroll
        for (int r = 0; r < R; r++) given[r] = T::given(x, x_scales, xs[r] + span);
#pragma unroll
        for (int c = 0; c < C; c++) {
            typename T::W weights = T::load(ws[c], span);
#pragma unroll
            for (int r = 0; r < R; r++) sums[r][c] = T::meet(sums[r][c], given[r], weights);
        }
    }
    // Each lane writes what stands in its places.
    float mine[(R * C + LANES - 1) / LANES] = {};
#pragma unroll
    for (u32 i = 0; i < R * C; i++) {
        float value = across(sums[i / C][i % C]);
        if (lane() == i % LANES) mine[i / LANES] = value;
    }
#pragma unroll
    for (u32 i = 0; i < R * C; i += LANES) {
        u32 place = i + lane(), r = row + place / C, c = column + place % C;
        if (place >= R * C || r >= rows || c >= outs) continue;
        float value = mine[i / LANES];
        if (scales) value = value * scales[c];
        if (bias) value = value + bias[c];
        float *to = y + (u64)r * stride + offset + c;
        *to = add ? *to + value : value;
    }
}

#define PRODUCT(name, type, R, C, BANDS) \
    extern "C" __global__ void name(const float *x, const float *x_scales, const u8 *w, const float *scales, const float *bias, float *y, u32 rows, u32 outs, u32 spans, u32 stride, u32 offset, u32 add) { \
        product<type, R, C, BANDS>(x, x_scales, w, scales, bias, y, rows, outs, spans, stride, offset, add); \
    }
#define PRODUCTS(name, type) \
    PRODUCT(name##_1, type, 1, 1, 1) \
    PRODUCT(name##_4, type, 4, 1, 1) \
    PRODUCT(name##_8, type, 8, 1, 1) \
    PRODUCT(name##_many, type, 8, 4, 4)
PRODUCTS(product_f32, Float32)
PRODUCTS(product_f16, Float16<false>)
PRODUCTS(product_bf16, Float16<true>)
PRODUCTS(product_int8, Int8)

// Where a row's sequence keeps the keys of a layer; K heads further it has the values.
static __device__ float *seen(const Row &row, u32 layer, u32 kv, u32 width) { return row.seen + (u64)layer * 2 * kv * row.room * width; }

// Norms of heads, where there are some; turns of queries and keys by cosines and sines [T, D / 2], where there are some; and keys and values to where
// their rows' sequences keep those of a layer. A group for each head of qkv [T, H + 2 K, D].
extern "C" __global__ void heads(float *qkv, const float *queries, const float *keys, float epsilon, const float *turns, const Row *table, u32 rows, u32 heads, u32 kv, u32 width, u32 layer) {
    u32 all = heads + 2 * kv, half = width / 2;
    bool here = group() < rows * all;
    u32 unit = here ? group() : rows * all - 1, t = unit / all, h = unit % all;
    float *head = qkv + (u64)unit * width;
    const float *norm = h < heads ? queries : h < heads + kv ? keys : nullptr;
    float factor = 1.0f / sqrtf(across(summed<true>(head, width, 0.0f)) / (float)width + epsilon);
    if (!here) return;
    Row row = table[t];
    float *to = head;
    if (h >= heads) to = seen(row, layer, kv, width) + ((u64)(h - heads) * row.room + row.at) * width;
    bool turn = turns && h < heads + kv;
    for (u32 i = lane(); i < (turn ? half : width); i += LANES) {
        float a = head[i];
        if (norm) a = a * factor * norm[i];
        if (!turn) {
            to[i] = a;
            continue;
        }
        float b = head[half + i];
        if (norm) b = b * factor * norm[half + i];
        float cosine = turns[((u64)t * half + i) * 2], sine = turns[((u64)t * half + i) * 2 + 1];
        float left = a * cosine, right = b * sine, lower = b * cosine, upper = a * sine;
        to[i] = left - right;
        to[half + i] = lower + upper;
    }
    if (turn && width % 2 == 1 && lane() == 0) to[width - 1] = norm ? head[width - 1] * factor * norm[width - 1] : head[width - 1];
}

// Products of queries and keys: for each row (z) and head (y) as many as its sequence has positions up to it, `stride` apart.
extern "C" __global__ void scores(const float *qkv, const Row *table, float *scores, u32 heads, u32 kv, u32 width, u32 layer, u32 stride) {
    u32 t = blockIdx.z, h = blockIdx.y;
    Row row = table[t];
    if ((group() & ~1u) > row.at) return; // With it the other group of its warp.
    bool here = group() <= row.at;
    u32 at = here ? group() : row.at;
    const float *query = qkv + ((u64)t * (heads + 2 * kv) + h) * width;
    const float *key = seen(row, layer, kv, width) + ((u64)(h / (heads / kv)) * row.room + at) * width;
    float sum = 0.0f;
    u32 k = lane(), whole = width / LANES * LANES;
#pragma unroll 8
    for (; k < whole; k += LANES) sum = fmaf(query[k], key[k], sum);
    for (; k < (width + SPAN - 1) / SPAN * SPAN; k += LANES) sum = fmaf(k < width ? query[k] : 0.0f, k < width ? key[k] : 0.0f, sum);
    sum = across(sum);
    if (here && lane() == 0) scores[((u64)t * heads + h) * stride + at] = sum;
}

// The largest score of each row (y) and head (x): each group of the block finds that of its part.
extern "C" __global__ void largest(const Row *table, const float *__restrict__ scores, float *__restrict__ most, u32 heads, u32 stride) {
    u64 unit = (u64)blockIdx.y * heads + blockIdx.x;
    u32 count = table[blockIdx.y].at + 1;
    scores += unit * stride;
    float own = __uint_as_float(0xff800000u);
    u32 whole = count / (GROUPS * LANES), last = whole * GROUPS * LANES + threadIdx.x;
#pragma unroll 8
    for (u32 i = 0; i < whole; i++) {
        float score = scores[i * GROUPS * LANES + threadIdx.x];
        own = score > own ? score : own;
    }
    if (last < count) own = scores[last] > own ? scores[last] : own;
    for (int half = LANES / 2; half > 0; half /= 2) {
        float other = __shfl_xor_sync(ALL, own, half, LANES);
        own = other > own ? other : own;
    }
    if (lane() == 0) most[unit * GROUPS + threadIdx.x / LANES] = own;
}

// Makes weights of scores: a thread for each, of each row (z) and head (y).
extern "C" __global__ void weigh(const Row *table, float *scores, const float *__restrict__ most, u32 heads, u32 stride, float scale) {
    u64 unit = (u64)blockIdx.z * heads + blockIdx.y;
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i > table[blockIdx.z].at) return;
    float all = most[unit * GROUPS];
    for (u32 part = 1; part < GROUPS; part++) all = most[unit * GROUPS + part] > all ? most[unit * GROUPS + part] : all;
    scores[unit * stride + i] = power((scores[unit * stride + i] - all) * scale);
}

// One part of the sum of weights: a group for each row and head.
extern "C" __global__ void shared(const Row *table, const float *__restrict__ scores, float *__restrict__ shares, u32 rows, u32 heads, u32 stride) {
    bool here = group() < rows * heads;
    u32 unit = here ? group() : rows * heads - 1;
    float sum = across(summed<false>(scores + (u64)unit * stride, table[unit / heads].at + 1, 0.0f));
    if (here && lane() == 0) shares[unit] = 1.0f / sum;
}

// Values by their weights: a thread for each number of y [T, H D], rows `y_stride` apart.
extern "C" __global__ void values(const Row *table, const float *__restrict__ scores, const float *__restrict__ shares, float *__restrict__ y, u32 rows, u32 heads, u32 kv, u32 width, u32 layer, u32 stride, u32 y_stride) {
    u32 unit = blockIdx.x * blockDim.x + threadIdx.x;
    if (unit >= rows * heads * width) return;
    u32 t = unit / (heads * width), h = unit / width % heads, place = unit % width;
    Row row = table[t];
    const float *__restrict__ value = seen(row, layer, kv, width) + (u64)(kv + h / (heads / kv)) * row.room * width + place;
    const float *__restrict__ weights = scores + ((u64)t * heads + h) * stride;
    u32 count = row.at + 1;
    float sum = 0.0f;
#pragma unroll 32
    for (u32 i = 0; i < count; i++) sum = fmaf(weights[i], value[(u64)i * width], sum);
    y[(u64)t * y_stride + h * width + place] = sum * shares[t * heads + h];
}

// GELU, or SwiGLU (`gated`) of rows that hold gates and then what they gate: a thread for each number of y [T, F], rows `stride` apart.
extern "C" __global__ void activate(const float *up, float *y, u32 rows, u32 width, u32 stride, u32 gated) {
    u32 unit = blockIdx.x * blockDim.x + threadIdx.x;
    if (unit >= rows * width) return;
    u32 t = unit / width, i = unit % width;
    float value;
    if (gated) {
        float gate = up[(u64)t * 2 * width + i];
        value = gate / (1.0f + power(-gate)) * up[(u64)t * 2 * width + width + i];
    } else {
        float x = up[(u64)t * width + i];
        float z = 0.7978846f * (x + 0.044715f * x * x * x);
        value = x / (1.0f + power(-2.0f * z));
    }
    y[(u64)t * stride + i] = value;
}
