/* The gates of a TreeLSTM and of an LSTM, forward and backward, in one pass over memory each; and the pointers of
 * parsers: a step of many, and the replay of whole derivations.
 *
 * Optional: rlparse/compiled.py builds this file where there is a C compiler, and the same in torch serves where there
 * is none. Tables lie row after row; vectors are float32, numbers int64. Blocks of gates hold what one sigmoid squashed;
 * that of the candidate was doubled before, so that it stands for tanh(x) = 2 sigmoid(2 x) - 1.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT
#endif

/* exp(x) as 2^n times a polynomial of the rest, |rest| <= log(2) / 2: relative error below 2e-7.
 *
 * The lowest 9 bits of the float n + 127 + 1.5 * 2^23 are n + 127: nothing is converted, which for NaN has no meaning.
 * NaN passes both comparisons by and makes the polynomial NaN. */
static inline float exponential(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 87.0f ? 87.0f : x;
    const float n = rintf(x * 1.44269504088896341f);
    float rest = x - n * 0.693359375f;
    rest = rest + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * rest + 1.3981999507e-3f;
    p = p * rest + 8.3334519073e-3f;
    p = p * rest + 4.1665795894e-2f;
    p = p * rest + 1.6666665459e-1f;
    p = p * rest + 5.0000001201e-1f;
    p = p * rest * rest + rest + 1.0f;
    union { uint32_t bits; float value; } scale;
    scale.value = n + (127.0f + 12582912.0f);
    scale.bits <<= 23;
    return p * scale.value;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

/* gates [m, 5 D]: i, f_l, f_r, o, candidate before bias [5 D] and squashing, then after both; pairs [m, 2]: rows of
 * cells, those of left and right. */
EXPORT void tree_lstm_forward(int64_t m, int64_t D, float *gates, const float *bias, const float *cells,
                              const int64_t *pairs, float *h, float *c, float *squashed)
{
    for (int64_t row = 0; row < m; row++) {
        float *restrict g = gates + row * 5 * D;
        const float *restrict left = cells + pairs[2 * row] * D;
        const float *restrict right = cells + pairs[2 * row + 1] * D;
        float *restrict own_h = h + row * D;
        float *restrict own_c = c + row * D;
        float *restrict own_s = squashed + row * D;
#pragma omp simd
        for (int64_t d = 0; d < 5 * D; d++) g[d] = sigmoid(g[d] + bias[d]);
#pragma omp simd
        for (int64_t d = 0; d < D; d++) {
            const float i = g[d];
            const float cell = i * (2.0f * g[4 * D + d] - 1.0f) + g[D + d] * left[d] + g[2 * D + d] * right[d];
            const float s = 2.0f * sigmoid(2.0f * cell) - 1.0f;
            own_c[d] = cell;
            own_s[d] = s;
            own_h[d] = g[3 * D + d] * s;
        }
    }
}

/* gates: what forward left, then the gradients of what it squashed; the gradients of h and c are at rows [m] of their
 * tables; grad_cells [m, 2 D] is written. */
EXPORT void tree_lstm_backward(int64_t m, int64_t D, float *gates, const float *cells, const int64_t *pairs,
                               const float *squashed, const float *grad_h, const float *grad_c, const int64_t *rows,
                               float *grad_cells)
{
    for (int64_t row = 0; row < m; row++) {
        float *restrict g = gates + row * 5 * D;
        const float *restrict left = cells + pairs[2 * row] * D;
        const float *restrict right = cells + pairs[2 * row + 1] * D;
        const float *restrict s_row = squashed + row * D;
        const float *restrict to_h = grad_h + rows[row] * D;
        const float *restrict to_c = grad_c + rows[row] * D;
        float *restrict to_cells = grad_cells + row * 2 * D;
#pragma omp simd
        for (int64_t d = 0; d < D; d++) {
            const float i = g[d], l = g[D + d], r = g[2 * D + d], o = g[3 * D + d], u = g[4 * D + d], s = s_row[d];
            const float cell = to_c[d] + to_h[d] * o * (1.0f - s * s);
            to_cells[d] = cell * l;
            to_cells[D + d] = cell * r;
            g[d] = cell * (2.0f * u - 1.0f) * i * (1.0f - i);
            g[D + d] = cell * left[d] * l * (1.0f - l);
            g[2 * D + d] = cell * right[d] * r * (1.0f - r);
            g[3 * D + d] = to_h[d] * s * o * (1.0f - o);
            g[4 * D + d] = cell * 2.0f * i * u * (1.0f - u);
        }
    }
}

/* gates [m, 4 H]: i, f, candidate, o before the squashing, then after it; before [m, H]: the cells one step earlier. */
EXPORT void lstm_forward(int64_t m, int64_t H, float *gates, const float *before, float *h, float *c, float *squashed)
{
    for (int64_t row = 0; row < m; row++) {
        float *restrict g = gates + row * 4 * H;
        const float *restrict old = before + row * H;
        float *restrict own_h = h + row * H;
        float *restrict own_c = c + row * H;
        float *restrict own_s = squashed + row * H;
#pragma omp simd
        for (int64_t d = 0; d < 4 * H; d++) g[d] = sigmoid(g[d]);
#pragma omp simd
        for (int64_t d = 0; d < H; d++) {
            const float cell = g[H + d] * old[d] + g[d] * (2.0f * g[2 * H + d] - 1.0f);
            const float s = 2.0f * sigmoid(2.0f * cell) - 1.0f;
            own_c[d] = cell;
            own_s[d] = s;
            own_h[d] = g[3 * H + d] * s;
        }
    }
}

/* grad_c [m, H]: of the cells after the step, then of those before it. */
EXPORT void lstm_backward(int64_t m, int64_t H, float *gates, const float *before, const float *squashed,
                          const float *grad_h, float *grad_c)
{
    for (int64_t row = 0; row < m; row++) {
        float *restrict g = gates + row * 4 * H;
        const float *restrict old = before + row * H;
        const float *restrict s_row = squashed + row * H;
        const float *restrict to_h = grad_h + row * H;
        float *restrict to_c = grad_c + row * H;
#pragma omp simd
        for (int64_t d = 0; d < H; d++) {
            const float i = g[d], f = g[H + d], u = g[2 * H + d], o = g[3 * H + d], s = s_row[d];
            const float cell = to_c[d] + to_h[d] * o * (1.0f - s * s);
            to_c[d] = cell * f;
            g[d] = cell * (2.0f * u - 1.0f) * i * (1.0f - i);
            g[H + d] = cell * old[d] * f * (1.0f - f);
            g[2 * H + d] = cell * 2.0f * i * u * (1.0f - u);
            g[3 * H + d] = to_h[d] * s * o * (1.0f - o);
        }
    }
}

/* Replay derivations of at most N tokens on the parser: what rlparse.lockstep.trace gives.
 *
 * transitions [R, T], T = 2 N - 1, and lengths [R] come in; children [R, N - 1, 2], steps and heights [R, N - 1],
 * tops [R, T, 3] and legal [R, T, 2] bytes are written. Gives 0, or 1 as soon as anything is not as it should be.
 */
EXPORT int64_t replay(int64_t R, int64_t N, const int64_t *transitions, const int64_t *lengths, int64_t *children,
                      int64_t *steps, int64_t *heights, int64_t *tops, uint8_t *legal)
{
    const int64_t T = 2 * N - 1;
    int64_t *stack = malloc(sizeof(int64_t) * (size_t)(3 * N));
    if (stack == NULL) return 1;
    int64_t *height = stack + N; /* of every node of a row */
    for (int64_t r = 0; r < R; r++) {
        const int64_t n = lengths[r];
        int64_t size = 0, front = 0, made = 0;
        if (n < 1 || n > N) goto wrong;
        for (int64_t t = 0; t < T; t++) {
            const int may_shift = front < n, may_reduce = size >= 2;
            int64_t *seen = tops + (r * T + t) * 3;
            seen[0] = may_shift ? front : -1;
            seen[1] = size >= 1 ? stack[size - 1] : -1;
            seen[2] = may_reduce ? stack[size - 2] : -1;
            legal[(r * T + t) * 2] = (uint8_t)may_shift;
            legal[(r * T + t) * 2 + 1] = (uint8_t)may_reduce;
            switch (transitions[r * T + t]) {
            case 0:
                if (!may_shift) goto wrong;
                height[front] = 0;
                stack[size++] = front++;
                break;
            case 1: {
                if (!may_reduce) goto wrong;
                const int64_t left = stack[size - 2], right = stack[size - 1], at = r * (N - 1) + made;
                children[2 * at] = left;
                children[2 * at + 1] = right;
                steps[at] = t;
                heights[at] = height[N + made] = 1 + (height[left] > height[right] ? height[left] : height[right]);
                stack[--size - 1] = N + made++;
                break;
            }
            case 2:
                if (may_shift || may_reduce) goto wrong;
                break;
            default:
                goto wrong;
            }
        }
        if (made != n - 1 || front != n) goto wrong;
        for (int64_t at = r * (N - 1) + made; at < (r + 1) * (N - 1); at++) {
            children[2 * at] = children[2 * at + 1] = steps[at] = -1;
            heights[at] = 0;
        }
    }
    free(stack);
    return 0;
wrong:
    free(stack);
    return 1;
}

/* Take step t on the first `running` of R parsers, sorted by length, and look at the first `next` of them before step
 * t + 1.
 *
 * Every step puts one item on the stack: items [T + 1, R] holds their table rows by the step before which they came,
 * beneath [T + 1, R] the number of the item under each. tokens [L] are the table rows of all tokens, sentence by
 * sentence from first [R] on; node is the table row of the next node, nothing that of the zeros. Written are rows [m] that
 * reduce with the table rows of their children, pairs [m, 2], and for the next step fronts [next], tops [next, 2] (top,
 * second), stack_sizes and buffer_sizes [next]. Gives m.
 */
EXPORT int64_t take_step(int64_t running, int64_t next, int64_t R, int64_t t, int64_t node, int64_t nothing,
                         const int64_t *actions, const int64_t *lengths, const int64_t *first, const int64_t *tokens,
                         int64_t *items, int64_t *beneath, int64_t *shifted, int64_t *rows, int64_t *pairs,
                         int64_t *fronts, int64_t *tops, int64_t *stack_sizes, int64_t *buffer_sizes)
{
    int64_t m = 0;
    for (int64_t r = 0; r < running; r++) {
        const int64_t under = beneath[t * R + r];
        int64_t *own = items + (t + 1) * R + r, *below = beneath + (t + 1) * R + r;
        if (actions[r] == 1) {
            rows[m] = r;
            pairs[2 * m] = items[under * R + r];
            pairs[2 * m + 1] = items[t * R + r];
            *own = node + m++;
            *below = beneath[under * R + r];
        } else {
            *own = shifted[r] < lengths[r] ? tokens[first[r] + shifted[r]] : nothing;
            *below = t;
            shifted[r]++;
        }
        if (r < next) {
            fronts[r] = shifted[r] < lengths[r] ? tokens[first[r] + shifted[r]] : nothing;
            tops[2 * r] = *own;
            tops[2 * r + 1] = items[*below * R + r];
            stack_sizes[r] = 2 * shifted[r] - (t + 1);
            buffer_sizes[r] = lengths[r] - shifted[r];
        }
    }
    return m;
}

/* table[index[i]] += rows[i] for n rows of D numbers; an index may occur more than once. */
EXPORT void add_rows(int64_t n, int64_t D, float *table, const int64_t *index, const float *rows)
{
    for (int64_t i = 0; i < n; i++) {
        float *restrict to = table + index[i] * D;
        const float *restrict from = rows + i * D;
#pragma omp simd
        for (int64_t d = 0; d < D; d++) to[d] += from[d];
    }
}

/* Of how many there are of each kind, make where those of each begin when they are sorted. */
static void count_to_start(int64_t n_kinds, int64_t *counts)
{
    for (int64_t k = 0, start = 0; k < n_kinds; k++) {
        const int64_t here = counts[k];
        counts[k] = start;
        start += here;
    }
}

/* Of where those of each kind end, make how many there are. */
static void end_to_count(int64_t n_kinds, int64_t *ends)
{
    for (int64_t k = n_kinds - 1; k > 0; k--) ends[k] -= ends[k - 1];
}

/* Place the nodes of R sentences of at most N tokens in one table: what rlparse.models.layout.lay_out gives.
 *
 * lengths [R], below [R, N - 1, 2] (node ids of children) and keys [R, N - 1], from 0 to n_keys - 1, come in; leaves [R, N]
 * too, or NULL where every token is a leaf of its own. Written are position [R, 2 N - 1], children [M, 2], rows [M], roots
 * [R] and counts [n_keys], the nodes of each key. Gives 0, or 1 as soon as a leaf is not from 0 to n_leaves - 1.
 */
EXPORT int64_t lay_out(int64_t R, int64_t N, int64_t M, int64_t n_keys, int64_t n_leaves, const int64_t *lengths,
                       const int64_t *below, const int64_t *keys, const int64_t *leaves, int64_t *position,
                       int64_t *children, int64_t *rows, int64_t *roots, int64_t *counts)
{
    const int64_t ids = 2 * N - 1;
    for (int64_t k = 0; k < n_keys; k++) counts[k] = 0;
    for (int64_t r = 0; r < R; r++)
        for (int64_t j = 0; j < lengths[r] - 1; j++) counts[keys[r * (N - 1) + j]]++;
    count_to_start(n_keys, counts);
    int64_t token = 0;
    for (int64_t r = 0; r < R; r++) {
        int64_t *place = position + r * ids;
        for (int64_t i = 0; i < ids; i++) place[i] = n_leaves + M;
        for (int64_t i = 0; i < lengths[r]; i++, token++) {
            place[i] = leaves == NULL ? token : leaves[r * N + i];
            if (place[i] < 0 || place[i] >= n_leaves) return 1;
        }
        for (int64_t j = 0; j < lengths[r] - 1; j++) {
            const int64_t m = counts[keys[r * (N - 1) + j]]++, *pair = below + (r * (N - 1) + j) * 2;
            place[N + j] = n_leaves + m;
            rows[m] = r;
            for (int side = 0; side < 2; side++) children[2 * m + side] = place[pair[side]];
        }
        roots[r] = place[lengths[r] > 1 ? N + lengths[r] - 2 : 0];
    }
    end_to_count(n_keys, counts);
    return 0;
}

/* The same where tokens share leaves [R, N], and nodes with the same left and the same right child one node; those have one
 * key too. slots [n_slots] is room for a hash table, n_slots a power of two above the number of nodes; pairs [.., 2], levels
 * and ranks are room for as many as there are nodes before any is shared, and so is children. Gives M, the nodes that are
 * left, or -1 as soon as a leaf is not from 0 to n_leaves - 1.
 */
EXPORT int64_t lay_out_shared(int64_t R, int64_t N, int64_t n_slots, int64_t n_keys, int64_t n_leaves,
                              const int64_t *lengths, const int64_t *below, const int64_t *keys, const int64_t *leaves,
                              int64_t *slots, int64_t *pairs, int64_t *levels, int64_t *ranks, int64_t *position,
                              int64_t *children, int64_t *roots, int64_t *counts)
{
    const int64_t ids = 2 * N - 1;
    int64_t M = 0;
    for (int64_t k = 0; k < n_keys; k++) counts[k] = 0;
    for (int64_t s = 0; s < n_slots; s++) slots[s] = -1;
    for (int64_t r = 0; r < R; r++) { /* nodes get numbers as they are met */
        int64_t *place = position + r * ids;
        for (int64_t i = 0; i < lengths[r]; i++) {
            place[i] = leaves[r * N + i];
            if (place[i] < 0 || place[i] >= n_leaves) return -1;
        }
        for (int64_t j = 0; j < lengths[r] - 1; j++) {
            const int64_t at = r * (N - 1) + j, left = place[below[2 * at]], right = place[below[2 * at + 1]];
            const uint64_t hash = (uint64_t)left * 0x9E3779B97F4A7C15u + (uint64_t)right * 0xC2B2AE3D27D4EB4Fu;
            uint64_t slot = (hash ^ (hash >> 32)) & (uint64_t)(n_slots - 1);
            while (slots[slot] >= 0 && (pairs[2 * slots[slot]] != left || pairs[2 * slots[slot] + 1] != right))
                slot = (slot + 1) & (uint64_t)(n_slots - 1);
            if (slots[slot] < 0) {
                pairs[2 * M] = left;
                pairs[2 * M + 1] = right;
                levels[M] = keys[at];
                counts[keys[at]]++;
                slots[slot] = M++;
            }
            place[N + j] = n_leaves + slots[slot];
        }
    }
    count_to_start(n_keys, counts);
    for (int64_t m = 0; m < M; m++) ranks[m] = counts[levels[m]]++;
    for (int64_t m = 0; m < M; m++)
        for (int side = 0; side < 2; side++) {
            const int64_t child = pairs[2 * m + side];
            children[2 * ranks[m] + side] = child < n_leaves ? child : n_leaves + ranks[child - n_leaves];
        }
    for (int64_t r = 0; r < R; r++) {
        int64_t *place = position + r * ids;
        for (int64_t i = lengths[r]; i < N; i++) place[i] = n_leaves + M;
        for (int64_t j = 0; j < N - 1; j++)
            place[N + j] = n_leaves + (j < lengths[r] - 1 ? ranks[place[N + j] - n_leaves] : M);
        roots[r] = place[lengths[r] > 1 ? N + lengths[r] - 2 : 0];
    }
    end_to_count(n_keys, counts);
    return M;
}

/* Find where table rows are used, given children [M, 2] and roots [R]: uses [2 M + R], sorted by row, are numbers 2 m + side
 * and 2 M + r. Rows lie in groups, of groups [G] rows each; written are too where among the uses of its group those of each
 * row begin, starts, and the uses of each group, use_sizes [G]. */
EXPORT void find_uses(int64_t M, int64_t R, int64_t G, const int64_t *children, const int64_t *roots, const int64_t *groups,
                      int64_t *uses, int64_t *starts, int64_t *use_sizes)
{
    int64_t n_rows = 0;
    for (int64_t g = 0; g < G; g++) n_rows += groups[g];
    for (int64_t i = 0; i < n_rows; i++) starts[i] = 0;
    for (int64_t k = 0; k < 2 * M; k++) starts[children[k]]++;
    for (int64_t r = 0; r < R; r++) starts[roots[r]]++;
    count_to_start(n_rows, starts);
    for (int64_t k = 0; k < 2 * M; k++) uses[starts[children[k]]++] = k;
    for (int64_t r = 0; r < R; r++) uses[starts[roots[r]]++] = 2 * M + r;
    int64_t row = 0, end = 0; /* starts are where the next row's begin, now */
    for (int64_t g = 0; g < G; g++) {
        const int64_t begin = end;
        for (int64_t i = 0; i < groups[g]; i++, row++) {
            const int64_t own_end = starts[row];
            starts[row] = end - begin;
            end = own_end;
        }
        use_sizes[g] = end - begin;
    }
}

/* Boundaries: five words that are read of a parser's state, and one of 16 kinds of states. of_words [U, 5, H] is what
 * every word adds to a hidden layer in each of five slots, of_kinds [16, H] what every kind adds; rows [S, 5] are rows of
 * of_words by state, slots counted in. */
static inline const float *share(const float *of_words, const int64_t *rows, int slot, int64_t H)
{
    return of_words + rows[slot] * H;
}

static inline void read_one(int64_t H, const float *of_words, const float *of_kinds, const int64_t *rows, int64_t kind,
                            float *restrict hidden)
{
    const float *a = share(of_words, rows, 0, H), *b = share(of_words, rows, 1, H), *c = share(of_words, rows, 2, H);
    const float *d = share(of_words, rows, 3, H), *e = share(of_words, rows, 4, H), *k = of_kinds + kind * H;
#pragma omp simd
    for (int64_t i = 0; i < H; i++) {
        const float sum = a[i] + b[i] + c[i] + d[i] + e[i] + k[i];
        hidden[i] = sum < 0.0f ? 0.0f : sum; /* NaN stays */
    }
}

/* hidden [S, H]: the sums, where they are positive. */
EXPORT void read_boundaries(int64_t S, int64_t H, const float *of_words, const float *of_kinds, const int64_t *rows,
                            const int64_t *kinds, float *hidden)
{
    for (int64_t s = 0; s < S; s++) read_one(H, of_words, of_kinds, rows + 5 * s, kinds[s], hidden + s * H);
}

/* Add the gradients of what was summed, given that of hidden, to of_words and of_kinds. */
EXPORT void read_boundaries_backward(int64_t S, int64_t H, const float *hidden, const float *gradient, const int64_t *rows,
                                     const int64_t *kinds, float *of_words, float *of_kinds)
{
    for (int64_t s = 0; s < S; s++) {
        const float *own = hidden + s * H, *from = gradient + s * H;
        for (int slot = 0; slot < 6; slot++) {
            float *restrict to = slot < 5 ? of_words + rows[5 * s + slot] * H : of_kinds + kinds[s] * H;
#pragma omp simd
            for (int64_t i = 0; i < H; i++) to[i] += own[i] <= 0.0f ? 0.0f : from[i];
        }
    }
}

/* Parse R sentences of at most N tokens. words [R, N + 2] are rows of of_words, those of nothing at and past both ends;
 * for_shift [H] and prior [W, W], by sizes of stack and buffer, make the odds of SHIFT, which is taken where they are not
 * below thresholds [T, R]. hidden [H] and stack [2 N] are room to work in. transitions [R, T] and odds [R, T] are written
 * from each row's first step to its last, odds only where there is a choice. */
EXPORT void play_boundaries(int64_t R, int64_t N, int64_t H, int64_t W, const int64_t *lengths, const int64_t *words,
                            const float *of_words, const float *of_kinds, const float *for_shift, const float *prior,
                            const float *thresholds, float *hidden, int64_t *stack, int64_t *transitions, float *odds)
{
    const int64_t T = 2 * N - 1;
    int64_t *left = stack, *kind = stack + N; /* leftmost word of every item, 1 for a phrase + 2 if its right child is one */
    for (int64_t r = 0; r < R; r++) {
        const int64_t n = lengths[r], *word = words + r * (N + 2);
        int64_t size = 0, front = 1;
        for (int64_t t = 0; t < 2 * n - 1; t++) {
            int shift = size < 2;
            if (size >= 2 && front <= n) {
                const int64_t top = size - 1, second = size - 2;
                const int64_t places[5] = {left[second], left[top] - 1, left[top], front - 1, front};
                int64_t rows[5];
                for (int slot = 0; slot < 5; slot++) rows[slot] = word[places[slot]] + slot;
                read_one(H, of_words, of_kinds, rows, kind[top] + 4 * kind[second], hidden);
                float sum = prior[size * W + n + 1 - front];
#pragma omp simd reduction(+ : sum)
                for (int64_t i = 0; i < H; i++) sum += hidden[i] * for_shift[i];
                odds[r * T + t] = sum;
                shift = thresholds[t * R + r] <= sum;
            }
            transitions[r * T + t] = !shift;
            if (shift) {
                left[size] = front++;
                kind[size++] = 0;
            } else {
                size--;
                kind[size - 1] = 1 + 2 * (kind[size] & 1);
            }
        }
    }
}
