/* The machine's limits, by hand: what a kernel for exactly one operation on one flat buffer reaches.
 * n is a multiple of 1024, buffers are aligned to 64 bytes. Written for AVX2. */
#include <immintrin.h>

#define PARALLEL _Pragma("omp parallel for schedule(static) num_threads(threads)")

void zero(float *restrict a, const float *g, long n, int threads) {
    PARALLEL
    for (long i = 0; i < n; i += 1024) {
        for (long j = i; j < i + 1024; j += 8)
            _mm256_stream_ps(a + j, _mm256_setzero_ps());
        _mm_sfence();
    }
}

void copy(float *restrict a, const float *restrict g, long n, int threads) {
    PARALLEL
    for (long i = 0; i < n; i += 1024) {
        for (long j = i; j < i + 1024; j += 16) {
            _mm_prefetch((const char *)(g + j + 256), _MM_HINT_T0);
            _mm256_stream_ps(a + j, _mm256_loadu_ps(g + j));
            _mm256_stream_ps(a + j + 8, _mm256_loadu_ps(g + j + 8));
        }
        _mm_sfence();
    }
}

void zero_cached(float *restrict a, const float *g, long n, int threads) {
    PARALLEL
    for (long i = 0; i < n; i += 1024)
        for (long j = i; j < i + 1024; j += 8)
            _mm256_storeu_ps(a + j, _mm256_setzero_ps());
}

void copy_cached(float *restrict a, const float *restrict g, long n, int threads) {
    PARALLEL
    for (long i = 0; i < n; i += 1024)
        for (long j = i; j < i + 1024; j += 8)
            _mm256_storeu_ps(a + j, _mm256_loadu_ps(g + j));
}

void accumulate(float *restrict a, const float *restrict g, long n, int threads) {
    PARALLEL
    for (long i = 0; i < n; i += 1024)
        for (long j = i; j < i + 1024; j += 16) {
            _mm256_storeu_ps(a + j, _mm256_add_ps(_mm256_loadu_ps(a + j), _mm256_loadu_ps(g + j)));
            _mm256_storeu_ps(a + j + 8, _mm256_add_ps(_mm256_loadu_ps(a + j + 8), _mm256_loadu_ps(g + j + 8)));
        }
}

/* Sums in float32 alone: less work than an exact norm, the same memory. */
float norm(float *restrict a, const float *restrict g, long n, int threads) {
    float total = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : total)
    for (long i = 0; i < n; i += 1024) {
        __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        for (long j = i; j < i + 1024; j += 32)
            for (int k = 0; k < 4; k++) {
                __m256 x = _mm256_loadu_ps(g + j + 8 * k);
                sums[k] = _mm256_fmadd_ps(x, x, sums[k]);
            }
        float lanes[8];
        _mm256_storeu_ps(lanes, _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
        for (int k = 0; k < 8; k++)
            total += lanes[k];
    }
    return total;
}
